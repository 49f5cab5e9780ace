"""Where an evaluation is written: one that fits is continued, and one that does not is never overwritten."""

import itertools
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ddpm_cars.config.commands import EvaluateConfig
from ddpm_cars.config.fields import AUTO
from ddpm_cars.errors import UserError
from ddpm_cars.reports.write import IMAGE_NAMES
from ddpm_cars.runs.run_folder import EvaluationFolder
from ddpm_cars.runtime.console import note, warn
from ddpm_cars.runtime.files import atomic_path, read_file
from ddpm_cars.runtime.folders import FolderLock
from ddpm_cars.runtime.hardware import default_precision
from ddpm_cars.runtime.processes import on_main

_OF_MODEL = {"weights", "scheduler"}
# What two evaluations may differ in: how it is said, and what it is in the name of a folder where that is its value.
_CONDITIONS = {
    "weights": ("other weights", ""),
    "scheduler": ("another calibration or scheduler", "scheduler-{:.8}"),
    "data": ("other images", ""),
    "seed": ("another seed", "seed-{}"),
    "num_images": ("another number of images", "{}-images"),
    "mixed_precision": ("another precision", "precision-{}"),
    "extractor": ("another extractor", ""),
    "num_inference_steps": ("another number of steps", "{}-steps"),
    "num_likelihood_images": ("another number of images for the bits per dimension", "{}-likelihood-images"),
}
# The settings that figures depend on.
_SETTINGS = (
    *("train_data_dir", "dataset_name", "split", "validation_split", "resize", "background"),
    *("seed", "num_images", "num_inference_steps", "num_likelihood_images"),
    *("extractor", "extractor_weights", "mixed_precision"),
)


def comparison_folder(output_dir: str | None, models: Sequence[str]) -> EvaluationFolder:
    """Return where two models are compared: where the user says, else comparison/ unless two others are there."""
    folder = EvaluationFolder(Path(output_dir or "comparison"))
    known = None if output_dir else read_file(folder.comparison)
    if known is None or [model["name"] for model in known["models"]] == list(models):
        return folder
    return EvaluationFolder(folder.sibling("-and-".join(name.replace("/", "--") for name in models)))


def is_standard(config: EvaluateConfig) -> bool:
    """Return whether everything that figures depend on is left to its default."""
    return all(getattr(config, name) == getattr(EvaluateConfig, name) for name in _SETTINGS)


def known_metrics(path: Path) -> dict[str, Any]:
    """Return what a metrics.json holds, nothing if there is none. Raises UserError if it cannot be read."""
    known = read_file(path) or {}
    if not isinstance(known, dict):
        raise UserError(f"{path} holds no JSON object; mend or remove it")
    return known


def conditions(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the figures of a metrics.json depend on; None for what it does not say, which fits everything.

    `metrics` may also be what `describe` returns. The versions of the packages are not among it: they are listed.
    """
    model, extractor = metrics.get("model", {}), metrics.get("extractor", {})
    sampler = metrics.get("memorisation", {}).get("sampler", {})
    bounds = metrics.get("likelihood") or [{"num_images": metrics.get("num_likelihood_images")}]
    return {
        "weights": model.get("weights_sha256"),
        # Earlier versions have no hash of it.
        "scheduler": model.get("scheduler_config_sha256"),
        # The number of images in the reference follows from the others.
        "data": {name: value for name, value in metrics.get("data", {}).items() if name != "num_reference_images"},
        "seed": metrics.get("seed"),
        "num_images": metrics.get("num_images"),
        "mixed_precision": metrics.get("mixed_precision"),
        "extractor": [extractor.get("name"), extractor.get("fingerprint")],
        "num_inference_steps": metrics.get("num_inference_steps", sampler.get("num_inference_steps")),
        "num_likelihood_images": bounds[0]["num_images"],
    }


def differences(known: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Return the names of the conditions in which two evaluations differ."""
    a, b = conditions(known), conditions(asked)
    return [name for name in a if None not in (a[name], b[name]) and a[name] != b[name]]


def find_place(
    base: Path, asked: Mapping[str, Any], *, is_fixed: bool = False, is_standard: bool = False
) -> EvaluationFolder:
    """Return the folder for an evaluation, and keep what an earlier one has written.

    An evaluation under the same conditions is continued, in `base` or in a folder beside it. Otherwise, a free `base`
    is taken. If it holds an evaluation of another model, this is moved to a folder beside it, named by what differs;
    if it holds one of the same model with other settings, the new evaluation is written beside it.

    Args:
        base: The first choice.
        asked: What `describe` returns.
        is_fixed: Whether only `base` will do, because the user has named it: what does not fit is moved.
        is_standard: Whether all settings are the default ones, whose place is `base`: what does not fit is moved.

    Raises:
        UserError: If a metrics.json cannot be read.
    """
    here, known = EvaluationFolder(base), known_metrics(EvaluationFolder(base).metrics)
    differing = differences(known, asked)
    if known and not differing:
        return here
    for beside in [] if is_fixed else here.beside():
        if (found := known_metrics(beside.metrics)) and not differences(found, asked):
            note(f"{base} holds another evaluation; the one with these settings is in {beside.path}")
            return beside
    if not known:
        return here
    said = " and ".join(_CONDITIONS[name][0] for name in differing)
    if is_fixed or is_standard or _OF_MODEL & {*differing}:
        aside = _free(base, known, asked, differing)
        _move(here, aside)
        warn(f"the evaluation in {base} was measured with {said}, and was moved to {aside.path}")
        return here
    beside = _free(base, asked, known, differing)
    note(f"{base} holds an evaluation with {said}; this one is written to {beside.path}")
    return beside


def _free(base: Path, metrics: Mapping[str, Any], other: Mapping[str, Any], differing: list[str]) -> EvaluationFolder:
    """Return a folder that does not exist, named by the conditions in which an evaluation differs from another."""
    words = "-".join(_word(name, metrics, other) for name in differing)[:100]
    names = itertools.chain([words], (f"{words}-{number}" for number in itertools.count(2)))
    paths = map(EvaluationFolder(base).sibling, names)
    return EvaluationFolder(next(path for path in paths if not path.exists()))


def _word(name: str, metrics: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Say in a part of a folder's name what a condition of an evaluation is."""
    value = conditions(metrics)[name]
    if name == "weights":
        steps = metrics["model"].get("num_training_steps")
        return f"weights-{value[:8]}" if steps is None else f"step-{steps}"
    if name == "data":
        others = conditions(other)["data"]
        changed = [value.get(key) for key in ("source", "split", "resize") if value.get(key) != others.get(key)]
        return _slug(" ".join(map(str, changed))) or f"data-{value['pictures_sha256'][:8]}"
    if name == "extractor":
        return _slug(value[0] if value[0] != conditions(other)[name][0] else f"extractor {value[1][:8]}")
    return _CONDITIONS[name][1].format(value)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _move(folder: EvaluationFolder, to: EvaluationFolder) -> None:
    """Move the files of an evaluation, and no others, into a new folder, which is complete or absent.

    Raises UserError if somebody is writing them.
    """
    lock = FolderLock(folder.path)
    lock.acquire()
    files = [folder.metrics, folder.report, folder.card, *map(folder.image, IMAGE_NAMES)]
    files = [path for path in files if path.exists()]
    with atomic_path(to.path) as temporary:
        temporary.mkdir()
        for path in files:
            shutil.copy2(path, temporary)
    # Without its metrics.json, which is deleted first, the folder holds no evaluation.
    for path in files:
        path.unlink()
    lock.release()


def with_precision(
    config: EvaluateConfig, folders: Sequence[EvaluationFolder], device: torch.device
) -> EvaluateConfig:
    """Return the settings with the precision of the figures in the folders where it is left open, else the device's.

    Figures of different precision do not belong side by side, so all folders get that of the first one that has some.
    A collective call.
    """

    def choose() -> str:
        known = [values for folder in folders if (values := known_metrics(folder.metrics))]
        return known[0].get("mixed_precision", "no") if known else default_precision(device)

    return replace(config, mixed_precision=on_main(choose)) if config.mixed_precision == AUTO else config
