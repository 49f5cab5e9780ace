"""TODO src/ddpm_cars/runs/saved_pipeline.py."""

import copy
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from safetensors import SafetensorError

from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.runs.load import load_pipeline
from ddpm_cars.runtime.files import atomic_path, fsync_path
from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler

_PIPELINE_FILES = (
    *("model_index.json", "pipeline.py", "scheduler/scheduler_config.json"),
    *("unet/config.json", "unet/diffusion_pytorch_model*"),
)


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
    pipeline.set_progress_bar_config(desc="sampling", leave=False)
    return pipeline


def save_pipeline(pipeline: DDPMCarsPipeline, folder: Path) -> None:
    """Write a pipeline into a folder that may hold one already; model_index.json, which makes it one, comes last.

    Every file is replaced in one move. What else lies there stays, but for weights of an older save, which loading
    would prefer.

    Raises:
        OSError: If it cannot be written.
    """
    with atomic_path(folder / ".pipeline") as temporary:
        try:
            pipeline.save_pretrained(temporary)
        except SafetensorError as error:
            raise OSError(str(error)) from error
    saved = folder / ".pipeline"
    written = (p.relative_to(saved) for p in saved.rglob("*") if p.is_file())
    new = sorted(written, key=lambda p: p.name == "model_index.json")
    for file in new:
        (folder / file).parent.mkdir(exist_ok=True)
        os.replace(saved / file, folder / file)
    for old in (folder / "unet").glob("diffusion_pytorch_model*"):
        if old.relative_to(folder) not in new:
            old.unlink()
    for place in (folder / "unet", folder / "scheduler", folder):
        fsync_path(place)
    shutil.rmtree(saved)


def load_published(folder: Path) -> DDPMCarsPipeline | None:
    """Load the pipeline that a run has written into a folder; None if there is none, or not a whole one."""
    if not (folder / "model_index.json").exists():
        # Loading would take its name for one on the Hub.
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
    """Return the config of the scheduler of a saved pipeline, whose network may be damaged; empty if it is itself."""
    path = folder / "scheduler" / DDPMCarsScheduler.config_name
    try:
        return dict(DDPMCarsScheduler.from_pretrained(path.parent).config) if path.exists() else {}
    except Exception:
        return {}


def delete_pipeline(folder: Path) -> None:
    """Delete a pipeline that `save_pipeline` has written; what else lies there stays, and then the folder."""
    for pattern in _PIPELINE_FILES:
        for path in folder.glob(pattern):
            path.unlink()
    for place in (folder / "unet", folder / "scheduler", folder):
        delete_if_empty(place)


def delete_if_empty(folder: Path) -> None:
    """Delete a folder that holds nothing; any other stays."""
    with suppress(OSError):
        folder.rmdir()
