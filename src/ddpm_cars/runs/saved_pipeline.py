"""A pipeline in a folder: the hashes by which it is recognised, what lies beside it, writing and deleting it."""

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from safetensors import SafetensorError

from ddpm_cars.errors import UserError
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.runs.checkpoints import half_life_steps
from ddpm_cars.runs.loading import evaluation_of, load_pipeline, weights_name, with_model
from ddpm_cars.runs.old_checkpoints import old_facts
from ddpm_cars.runs.run_folder import RunFolder, is_checkpoint
from ddpm_cars.runtime.console import progress_style
from ddpm_cars.runtime.files import atomic_path, fsync_path, read_file
from ddpm_cars.runtime.folders import delete_empty
from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler

WEIGHTS = "diffusion_pytorch_model*"  # Pattern of the names of a network's weights in its folder.


def weights_sha256(network: torch.nn.Module, prefix: str = "") -> str:
    """Return the SHA-256 of a prefix and of the names and bytes of all weights and buffers, in hexadecimal digits."""
    digest = hashlib.sha256(prefix.encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def identity(pipeline: DDPMCarsPipeline) -> dict[str, str]:
    """Return hashes of what images depend on: the weights, and the class and all settings of the scheduler."""
    settings = json.loads(pipeline.scheduler.to_json_string())
    settings.pop("_diffusers_version")
    hashed = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return {"weights_sha256": weights_sha256(pipeline.unet)[:16], "scheduler_config_sha256": hashed[:16]}


@dataclass(frozen=True)
class ModelFolder:
    """What a folder says about its model, for publication. An attribute is None where the folder does not say."""

    files: RunFolder
    pipeline: DDPMCarsPipeline  # On the CPU.
    settings: dict[str, Any] | None  # Those of the training run.
    training: dict[str, Any] | None  # The facts of the training run.
    metrics: dict[str, Any] | None  # Of these weights, sampled with the present settings of the scheduler.
    metrics_path: Path | None  # The file of these metrics.
    stale_metrics: Path | None  # Metrics of other weights or settings, or unfinished ones, which stay unpublished.
    are_weights_chosen: bool  # Whether the pipeline's weights are some of several in the folder.


def open_model_folder(folder: str | Path, weights: str | None = None, variant: str | None = None) -> ModelFolder:
    """Load the pipeline of a folder and what lies beside it.

    Of the evaluations that fit the model, the one in evaluation/ counts, else the one beside it of the most images.

    Args:
        folder: The folder; for a run that has not finished, its newest checkpoint is taken.
        weights: As `load_pipeline` takes it.
        variant: As `load_pipeline` takes it.

    Raises:
        UserError: If there is no model in it that loads, or a file of the run cannot be read.
    """
    return with_model(str(folder), lambda found: _open_model_folder(RunFolder(found), weights, variant))


def _open_model_folder(files: RunFolder, weights: str | None, variant: str | None) -> ModelFolder:
    if not files.path.is_dir() or (problem := files.why_no_pipeline()) is not None:
        raise UserError(problem if files.path.is_dir() else f"{files.path} is not a folder with a saved pipeline")
    pipeline = load_pipeline(str(files.path), weights, variant)
    place = evaluation_of(str(files.path), weights, variant)
    others = (files.run() or files).evaluation.beside()
    here, *beside = (place.metrics, *(other.metrics for other in others if other.path != place.path))
    found = {path: metrics for path in (here, *beside) if (metrics := read_file(path)) is not None}
    # A new run in the folder replaces the weights, and a calibration replaces the settings of the scheduler.
    now = identity(pipeline)
    fitting = [path for path, metrics in found.items() if _is_finished_and_of(metrics, now)]
    fitting.sort(key=lambda path: (path != here, -found[path].get("num_images", 0)))
    path = fitting[0] if fitting else None
    return ModelFolder(
        files,
        pipeline,
        files.read_settings() or None,
        training_facts(files, pipeline, weights, variant),
        None if path is None else found[path],
        path,
        next(iter(found), None) if path is None else None,
        variant is not None or is_checkpoint(files.path),
    )


def training_facts(
    files: RunFolder, pipeline: DDPMCarsPipeline, weights: str | None, variant: str | None
) -> dict[str, Any] | None:
    """Return what is known of a training run that has made a model, None if nothing is."""
    known: dict[str, Any] | None = read_file(files.facts)
    if not is_checkpoint(files.path):
        return known
    if known is None:
        known = old_facts(files.path, list((pipeline.config.get("id2label") or {}).values()))
    if (name := weights_name(files.path, weights, variant)) != weights_name(files.path, None):
        # What was measured was measured of the weights to sample with.
        known |= {"average_half_life_steps": half_life_steps(name), "validation": None}
    return known


def _is_finished_and_of(metrics: Mapping[str, Any], model: Mapping[str, str]) -> bool:
    # Metrics of earlier versions have no hash of the scheduler.
    fits = all(metrics["model"].get(name, value) == value for name, value in model.items())
    return fits and "floor" in metrics and bool(metrics.get("samples"))


def make_pipeline(
    unet_config: Mapping[str, Any],
    weights: Mapping[str, torch.Tensor],
    scheduler: DDPMCarsScheduler,
    class_names: tuple[str, ...],
    device: torch.device,
) -> DDPMCarsPipeline:
    """Return a pipeline around a copy of the weights, which go on changing while a run trains."""
    unet = UNet2DModel.from_config(unet_config)
    unet.load_state_dict(weights)
    id2label = dict(enumerate(class_names)) if class_names else None
    # Sampling sets the timesteps of its scheduler, so it gets one of its own.
    pipeline = DDPMCarsPipeline(unet.eval().to(device), copy.deepcopy(scheduler), id2label=id2label)
    pipeline.set_progress_bar_config(**progress_style(), desc="sampling", leave=False)
    return pipeline


def pipeline_texts(pipeline: DDPMCarsPipeline) -> dict[str, str]:
    """Return the files of a saved pipeline that are not weights, by their paths in its folder."""
    return {
        DDPMCarsPipeline.config_name: pipeline.to_json_string(),
        f"unet/{UNet2DModel.config_name}": pipeline.unet.to_json_string(),
        f"scheduler/{pipeline.scheduler.config_name}": pipeline.scheduler.to_json_string(),
    }


def save_pipeline(pipeline: DDPMCarsPipeline, folder: Path) -> None:
    """Write a pipeline into a folder that may hold one already; its index, which makes it one, comes last.

    Every file is replaced in one move. Other files stay, except weights of an earlier save, which loading would
    prefer. Raises OSError if it cannot be written.
    """
    files, saved = RunFolder(folder), folder / ".pipeline"
    with atomic_path(saved) as temporary:
        try:
            pipeline.save_pretrained(temporary)
        except SafetensorError as error:
            raise OSError(str(error)) from error
    new = {folder / path.relative_to(saved): path for path in saved.rglob("*") if path.is_file()}
    for path in sorted(new, key=lambda path: path == files.model_index):
        path.parent.mkdir(exist_ok=True)
        os.replace(new[path], path)
    for old in set(files.unet.glob(WEIGHTS)) - set(new):
        old.unlink()
    for place in (files.unet, files.scheduler, folder):
        fsync_path(place)
    shutil.rmtree(saved)


def load_published(folder: Path) -> DDPMCarsPipeline | None:
    """Load the pipeline that a run has written into a folder; None if there is none, or it is damaged."""
    if not RunFolder(folder).model_index.exists():
        # Loading would look for a model of this name on the Hub.
        return None
    try:
        return load_pipeline(str(folder))
    except Exception:
        # On damaged files diffusers raises whatever its parsing runs into.
        return None


def same_weights(pipeline: DDPMCarsPipeline, weights: Mapping[str, torch.Tensor]) -> bool:
    """Return whether a pipeline on the CPU has a network with these weights, to the bit."""
    found = pipeline.unet.state_dict()
    return found.keys() == weights.keys() and all(torch.equal(found[name], weights[name].cpu()) for name in found)


def scheduler_config(folder: Path) -> dict[str, Any]:
    """Return the config of the scheduler of a pipeline whose network may be damaged; empty if it is itself."""
    folder = RunFolder(folder).scheduler
    try:
        exists = (folder / DDPMCarsScheduler.config_name).exists()
        return dict(DDPMCarsScheduler.from_pretrained(folder).config) if exists else {}
    except Exception:
        return {}


def delete_pipeline(folder: Path) -> None:
    """Delete a pipeline that `save_pipeline` has written, and its folders unless they hold other files."""
    files = RunFolder(folder)
    configs = (files.scheduler / DDPMCarsScheduler.config_name, files.unet / UNet2DModel.config_name)
    for path in (files.model_index, folder / DDPMCarsPipeline.code_name, *configs, *files.unet.glob(WEIGHTS)):
        path.unlink(missing_ok=True)
    delete_empty((files.unet, files.scheduler, folder))
