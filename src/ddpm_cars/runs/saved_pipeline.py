"""Writing a pipeline into a folder in place of an earlier one, reading it back, and deleting it."""

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
from ddpm_cars.runs.run_folder import RunFolder
from ddpm_cars.runtime.files import atomic_path, fsync_path
from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler

WEIGHTS = "diffusion_pytorch_model*"  # Pattern of the names of a network's weights in its folder.


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
    for place in (files.unet, files.scheduler, folder):
        delete_if_empty(place)


def delete_if_empty(folder: Path) -> None:
    """Delete a folder unless it holds something."""
    with suppress(OSError):
        folder.rmdir()
