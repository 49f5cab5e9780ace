"""What a run leaves for people: the pipeline, sample grids and curves."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.figures.grids import make_grid, save_png
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline, as_images
from ddpm_cars.runs.saved_pipeline import delete_if_empty
from ddpm_cars.sampling.request import SamplingRequest


def grid_path(folder: Path, step: int) -> Path:
    """Return where the sample grid of a step is written while a run trains."""
    return folder / "samples" / f"step-{step:08d}.png"


def delete_grids(folder: Path) -> None:
    """Delete what is at paths that `grid_path` returns; what else lies there stays, and then the folder."""
    for path in (folder / "samples").glob("step-" + "[0-9]" * 8 + ".png"):
        path.unlink()
    delete_if_empty(folder / "samples")


def save_grid(
    pipeline: DDPMCarsPipeline, config: TrainingConfig, path: Path, stopped: Callable[[], Any] = lambda: None
) -> None:
    """Sample a grid of images, the same noise every time so that grids can be compared.

    Args:
        pipeline: The model.
        config: Says how many images and steps.
        path: Of the PNG.
        stopped: Asked after every step whether to give up: who has sent a notice to stop does not wait for images.
    """
    labels = None if pipeline.config.get("id2label") is None else list(range(len(pipeline.config.id2label)))

    request = SamplingRequest(
        num_images=config.eval_batch_size,
        seed=config.seed,
        num_inference_steps=config.num_inference_steps or config.num_train_timesteps,
        class_labels=labels,
    )
    with closing(pipeline.denoise(**request.arguments(range(request.num_images)))) as states:
        for state in states:
            if stopped():
                return
            sample = state.sample
    save_png(make_grid(as_images(sample)), path)
