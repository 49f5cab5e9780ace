"""The model card: model_card.md filled in from the files of a model. What they do not say is left out."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ddpm_cars.config.fields import settings_with
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.errors import UserError
from ddpm_cars.metrics.records import METRICS
from ddpm_cars.reports.page import card_section, markdown_table
from ddpm_cars.reports.wording import bound_label, name_of, plain_markdown, value_text
from ddpm_cars.runs.run_folder import is_checkpoint
from ddpm_cars.runs.saved_pipeline import ModelFolder
from ddpm_cars.runs.settings import dataset_id
from ddpm_cars.scheduling_ddpm_cars import CALIBRATED_VARIANCES

CARD = "README.md"  # The name of a card in its repository.
_TASK = "unconditional-image-generation"
_PRECISIONS = {"no": "float32", "fp16": "float16 mixed with float32", "bf16": "bfloat16 mixed with float32"}
_SEAL = re.compile(r"\n<!-- generated: ([0-9a-f]{16}); an edited card is not overwritten -->\n?\Z")


def make_card(
    folder: ModelFolder, name: str, repo_id: str | None, model_license: str | None, data_license: str | None
) -> str:
    """Return the card of a model, with YAML metadata for the Hub, sealed against overwriting.

    Args:
        folder: The model.
        name: The name of the model.
        repo_id: The repository where it is published, OWNER/NAME; None for the model inside the package.
        model_license: The licence of the model in the Hub's spelling; None leaves it out.
        data_license: The licence of the training images in words; None leaves it out.

    Raises:
        UserError: If the template is missing.
    """
    pipeline = folder.pipeline
    unet, T = pipeline.unet, pipeline.scheduler.config.num_train_timesteps
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    classes = list((folder.training or {}).get("data", {}).get("classes", []))
    card = ModelCard.from_template(
        _metadata(folder, name, model_license),
        template_str=find_template().read_text(encoding="utf-8"),
        title=name,
        repo_id=repo_id,
        size=f"{width}x{height}",
        num_train_timesteps=T,
        num_parameters=f"{sum(p.numel() for p in unet.parameters()):,}",
        classes=[plain_markdown(label) for label in classes],
        has_samples=folder.files.samples.is_file(),
        has_loss=folder.files.loss_plot.is_file(),
        class_argument=f"class_labels={json.dumps(classes[0])}" if classes else "",
        # The stock pipeline takes 1000 steps by default, whatever the model was trained with.
        stock_argument="" if T >= 1000 else f"num_inference_steps={T}",
        stock_difference=_stock_difference(folder),
        data=_data(folder, data_license),
        training=_training(folder),
        evaluation=None if folder.metrics is None else card_section(folder.metrics).strip(),
        hardware=_hardware((folder.training or {}).get("hardware", [])),
    )
    return seal(str(card))


def find_template() -> Path:
    """Return the path of model_card.md: in the installed package, or else in the checkout."""
    package = Path(__file__).parents[1]
    for folder in (package, package.parents[1]):
        if (folder / "model_card.md").is_file():
            return folder / "model_card.md"
    raise UserError(f"model_card.md, the template of cards, is missing in {package}; install ddpm-cars again")


def seal(text: str) -> str:
    """Add a last line to a card with which `is_untouched` recognises it."""
    text = text.rstrip("\n") + "\n"
    return f"{text}\n<!-- generated: {_digest(text)}; an edited card is not overwritten -->\n"


def is_untouched(text: str) -> bool:
    """Return whether a card is as `seal` has left it; a card that was never sealed is not."""
    # Editors and the Hub may change the ends of lines.
    text = text.replace("\r\n", "\n")
    found = _SEAL.search(text)
    return found is not None and _digest(text[: found.start()]) == found[1]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _metadata(folder: ModelFolder, name: str, model_license: str | None) -> ModelCardData:
    found = dataset_id(folder.settings or {})
    results = eval_results(folder)
    return ModelCardData(
        library_name="diffusers",
        pipeline_tag=_TASK,
        license=model_license,
        datasets=None if found is None else [found],
        tags=["diffusers", "ddpm", "ddpm-cars", _TASK],
        # The name belongs to the results, which the Hub lists by model.
        model_name=name if results else None,
        eval_results=results or None,
    )


def eval_results(folder: ModelFolder) -> list[EvalResult]:
    """Return the figures of the saved sampler and of the held-out images for the metadata of a card.

    The Hub shows these by themselves, so the metrics that few images make unstable are left to the card's text.
    """
    metrics = folder.metrics
    if metrics is None or not metrics["samples"]:
        return []
    data, first, floor = metrics["data"], metrics["samples"][0], metrics["floor"]["metrics"]
    slug = re.sub(r"[^a-z0-9]+", "-", data["source"].lower()).strip("-") or "pictures"
    common = {
        "task_type": _TASK,
        "dataset_type": dataset_id(folder.settings or {}) or slug,
        "dataset_name": data["source"],
    }
    how = f"{first['label']}, {first['num_inference_steps']} steps, {first['num_images']:,} images"
    results = [
        EvalResult(
            **common,
            dataset_split=data["split"],
            metric_type=metric.key,
            metric_name=f"{name_of(metric, metrics)} ({how}; real images: {value_text(metric, floor)})",
            metric_value=first["metrics"][metric.key],
        )
        for metric in METRICS
        if metric.key in first["metrics"] and not metric.min_images
    ]
    results += [
        EvalResult(
            **common,
            dataset_split=data["held_out_split"],
            metric_type="bits_per_dimension",
            metric_name=f"Bits per dimension ({bound_label(bound)}, {bound['num_images']:,} images)",
            metric_value=bound["bpd"],
        )
        for bound in metrics.get("likelihood", [])
        if bound["chain"] == "all"
    ]
    return results


def _stock_difference(folder: ModelFolder) -> str:
    config, differences = folder.pipeline.scheduler.config, []
    if config.variance_type in CALIBRATED_VARIANCES:
        differences.append(f"with the variance fixed_small in place of {config.variance_type}")
    if config.get("_init_noise") is not None:
        differences.append("from plain noise in place of the measured one")
    return f", {' and '.join(differences)}" if differences else ", which draws the same images from the same seeds"


def _data(folder: ModelFolder, data_license: str | None) -> str:
    sentences, settings = [], folder.settings or {}
    if folder.training is not None:
        data = folder.training["data"]
        count = "" if data["num_images"] is None else f"{data['num_images']:,} images of "
        place = f"[{data['dataset_id']}](https://huggingface.co/datasets/{data['dataset_id']})"
        sentences.append(f"{count}{plain_markdown(data['source']) if data['dataset_id'] is None else place}.")
    if settings.get("validation_split") is not None:
        sentences.append(f"The split {plain_markdown(str(settings['validation_split']))} was kept out of training.")
    if data_license is not None:
        sentences.append(f"Licence of the images: {plain_markdown(data_license)}.")
    return " ".join(sentences)


def _training(folder: ModelFolder) -> str:
    rows, facts, settings = [], folder.training, folder.settings
    if facts is not None:
        of_run = (
            f" of a run of {settings['max_train_steps']:,}" if settings and is_checkpoint(folder.files.path) else ""
        )
        rows.append(("Optimiser steps", f"{facts['steps']:,}{of_run}"))
        rows.append(("Images per step", str(facts["global_batch_size"])))
        half_life = facts["average_half_life_steps"]
        rows.append(("Weights", "the last" if half_life is None else f"averaged, half-life {half_life:,} steps"))
        if found := facts["validation"]:
            number = f"{found['num_images']:,} images of {found['split']}"
            rows.append((f"Mean squared error of eps, {number}", f"{found['eps_mse']:.5g}"))
    if settings is not None:
        settings = {**settings, "mixed_precision": _PRECISIONS.get(str(settings.get("mixed_precision")))}
        labels = settings_with(TrainingConfig, "label").items()
        if (betas := settings.get("trained_betas")) is not None:
            settings = {**settings, "beta_schedule": f"{len(betas)} given numbers (trained_betas)"}
        rows += [(label, _value(settings[name])) for name, label in labels if settings.get(name) is not None]
    for change in (facts or {}).get("changes", []):
        rows.append((f"From step {change['step']:,} on", "{name} {after}, before {before}".format(**change)))
    return markdown_table([["Setting", "Value"], *map(list, rows)]) if rows else ""


def _value(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _hardware(parts: Iterable[Mapping[str, Any]]) -> str:
    # A part of a run is told apart by its threads too, which are no matter for a card.
    total: dict[tuple, dict[str, Any]] = {}
    for part in parts:
        known = total.setdefault((part["device"], part["num_processes"]), {**part, "steps": 0, "seconds": 0.0})
        known["steps"] += part["steps"]
        known["seconds"] += part["seconds"]
    lines = []
    for part in total.values():
        hours = part["seconds"] / 3600
        processes = f"{part['num_processes']} processes on " if part["num_processes"] > 1 else ""
        lines.append(f"{part['steps']:,} steps in {hours:.2f} hours, {processes}{plain_markdown(part['device'])}.")
    return " ".join(lines)
