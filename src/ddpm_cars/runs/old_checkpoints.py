"""Checkpoints of format 1, which are no saved pipelines: the pipeline and the facts that their files imply."""

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.networks.unet import create_unet
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.runs.checkpoints import RAW, ema_name, half_life_steps, read_state, weights_of
from ddpm_cars.runs.run_folder import RunFolder
from ddpm_cars.runtime.files import read_file
from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler

_CLASS_WEIGHTS = "class_embedding.weight"


def _settings(path: Path) -> dict[str, Any]:
    # Where a checkpoint does not have a setting, which came later, the run had its default.
    return {f.name: f.default for f in fields(TrainingConfig)} | read_state(path)["config"]


def sampled_weights(path: Path) -> str:
    """Return the name of the weights to sample with: the best at the last measurement, else the first average."""
    state, settings = read_state(path), _settings(path)
    names = list(map(str, settings["ema_half_life_steps"])) if settings["use_ema"] else [RAW]
    if state.get("validation"):
        last = state["validation"][-1]["eps_mse"]
        names.sort(key=lambda name: last[name])
    return ema_name(names[0])


def _class_names(path: Path, num_embeddings: int, settings: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes, which such a checkpoint does not hold: those in its run, else their numbers."""
    number, run = num_embeddings - (settings["class_dropout_prob"] > 0), RunFolder(path).run()
    for files in () if run is None else (run, RunFolder(run.best)):
        names: dict[str, str] = (read_file(files.model_index) or {}).get("id2label") or {}
        if len(names) == number:
            return tuple(names[str(i)] for i in range(number))
    return tuple(map(str, range(number)))


def load_old_pipeline(path: Path, weights: str) -> DDPMCarsPipeline:
    """Build the pipeline of a checkpoint with some of its weights.

    Raises UserError if the file that the settings name for the network is gone or has become another.
    """
    settings, files = _settings(path), weights_of(path)
    tensors = load_file(files[RAW]) | load_file(files[weights])
    classes: tuple[str, ...] = ()
    overrides: dict[str, Any] = {}
    if _CLASS_WEIGHTS in tensors:
        overrides["num_class_embeds"] = len(tensors[_CLASS_WEIGHTS])
        classes = _class_names(path, overrides["num_class_embeds"], settings)
    learns_variance = settings["variance_type"] == "learned_range"
    network = (settings["preset"], settings["resolution"], settings["model_config"])
    with torch.device("meta"):
        unet = create_unet(*network, learn_variance=learns_variance, **overrides)
    unet.load_state_dict(tensors, assign=True)
    known = inspect.signature(DDPMCarsScheduler).parameters
    scheduler = DDPMCarsScheduler(**{name: value for name, value in settings.items() if name in known})
    return DDPMCarsPipeline(unet.eval(), scheduler, id2label=dict(enumerate(classes)) if classes else None)


def old_facts(path: Path, classes: list[str]) -> dict[str, Any]:
    """Return what the training.json of such a checkpoint would say, without what was measured."""
    state, settings = read_state(path), _settings(path)
    return {
        "steps": state["step"],
        "global_batch_size": state["facts"]["global batch size"],
        "average_half_life_steps": half_life_steps(sampled_weights(path)),
        "data": {
            "source": Path(str(settings["train_data_dir"] or settings["dataset_name"])).name,
            "dataset_id": None,
            "num_images": state["facts"].get("num_images"),
            "classes": classes,
        },
        "validation": None,
        "hardware": state.get("hardware", []),
    }
