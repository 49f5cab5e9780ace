"""Many pictures from one pipeline, and the way they come out of the noise."""

from collections.abc import Iterator
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from ddpm_cars.config import ConfigError
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.plots import make_grid, to_pil
from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler


def make_scheduler(name: str, config: Any, **options: Any) -> Any:
    """Build a scheduler by class name from the config of another.

    Args:
        name: `DDPMCarsScheduler` or a scheduler class of diffusers, such as `DDIMScheduler`.
        config: The config to take over.
        options: Settings that replace those of the config.

    Raises:
        ConfigError: If there is no such class, or it does not work with these models.
    """
    names = [e.name for e in diffusers.schedulers.KarrasDiffusionSchedulers]
    if name == "DDPMCarsScheduler":
        return DDPMCarsScheduler.from_config(config, **options)
    if name not in names:
        raise ConfigError(f"scheduler is {name}; choose DDPMCarsScheduler or one of {', '.join(sorted(names))}")
    return getattr(diffusers, name).from_config(config, **options)


def seeded_generators(seed: int, start: int, stop: int) -> list[torch.Generator]:
    """Return a generator per picture: picture i is drawn from the seed `seed + i`, whatever its batch."""
    return [torch.Generator().manual_seed(seed + i) for i in range(start, stop)]


def generate(
    pipeline: DDPMCarsPipeline,
    num_images: int,
    batch_size: int = 16,
    seed: int = 0,
    num_inference_steps: int | None = None,
) -> Iterator[Image.Image]:
    """Draw pictures, batch by batch; picture i depends on `seed + i` only.

    Args:
        pipeline: The model.
        num_images: How many, 1 or more.
        batch_size: How many at a time, 1 or more.
        seed: Of the first picture.
        num_inference_steps: Denoising steps; None is every training timestep.

    Yields:
        PIL images.
    """
    for start in range(0, num_images, batch_size):
        generators = seeded_generators(seed, start, min(start + batch_size, num_images))
        yield from pipeline(len(generators), generators, num_inference_steps, return_dict=False)[0]


def denoising_strip(
    pipeline: DDPMCarsPipeline,
    num_images: int = 4,
    seed: int = 0,
    num_inference_steps: int | None = None,
    num_frames: int = 10,
) -> Image.Image:
    """Show x_t from noise to picture (Ho et al. 2020, algorithm 2), one row per picture.

    Args:
        pipeline: The model.
        num_images: Rows.
        seed: As in `generate`, so that the last column is the pictures of that.
        num_inference_steps: Denoising steps; None is every training timestep.
        num_frames: Columns, cut to the number of steps where that is smaller.
    """
    frames: list[tuple[int, list[Image.Image]]] = []

    def keep(pipe: Any, step_index: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]) -> dict:
        x_t = tensors["latents"]
        # Some schedulers carry x_t / sqrt(alpha_bar_t); brought back to unit range, noise looks like noise.
        frames.append((int(timestep), to_pil(x_t / max(1.0, float(x_t.std())))))
        return {}

    pipeline(
        num_images,
        seeded_generators(seed, 0, num_images),
        num_inference_steps,
        output_type="raw",
        callback_on_step_end=keep,
    )
    chosen = sorted(set(np.linspace(0, len(frames) - 1, num_frames).round().astype(int).tolist()))
    tiles = [frames[i][1][row] for row in range(num_images) for i in chosen]
    # A frame shows x_s, what the step from its timestep led to; the last one is x_0.
    labels = [f"t = {frames[i + 1][0]}" if i + 1 < len(frames) else "x_0" for i in chosen]
    return make_grid(tiles, len(chosen), labels=labels)
