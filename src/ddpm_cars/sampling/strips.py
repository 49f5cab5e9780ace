"""TODO src/ddpm_cars/sampling/strips.py."""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from ddpm_cars.diffusion.seeds import seeded_generators
from ddpm_cars.figures.grids import make_grid, noisy_to_pil, to_pil
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.sampling.classes import repeat_labels
from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler


def forward_noising_strip(
    samples: torch.Tensor, scheduler: DDPMCarsScheduler, num_frames: int = 10, seed: int = 0
) -> Image.Image:
    """Show q(x_t | x_0) from t = 0 to T - 1 at evenly spaced t (Ho et al. 2020, eq. 4), one row per image.

    Args:
        samples: x_0, float32 (batch, 1 or 3, height, width) in [-1, 1].
        scheduler: Gives the noise levels.
        num_frames: Columns, 2 or more.
        seed: Of the noise, which is the same in every column so that the strip shows one path.
    """
    T = scheduler.config.num_train_timesteps
    timesteps = np.linspace(0, T - 1, num_frames).round().astype(int).tolist()
    noise = torch.randn(samples.shape, generator=torch.Generator().manual_seed(seed))
    columns = [to_pil(scheduler.add_noise(samples, noise, torch.tensor(t))) for t in timesteps]
    tiles = [column[row] for row in range(len(samples)) for column in columns]
    return make_grid(tiles, num_frames, labels=[f"t = {t}" for t in timesteps])


def denoising_strip(
    pipeline: DDPMCarsPipeline,
    num_images: int = 4,
    seed: int = 0,
    num_inference_steps: int | None = None,
    num_frames: int = 10,
    class_labels: Sequence[int | str] | None = None,
    guidance_scale: float = 1.0,
) -> Image.Image:
    """Show x_t from noise to image (Ho et al. 2020, algorithm 2), one row per image.

    Args:
        pipeline: The model.
        num_images: Rows.
        seed: As in `generate`, so that the last column is the images of that.
        num_inference_steps: Denoising steps; None is every training timestep.
        num_frames: Columns, cut to the number of steps where that is smaller.
        class_labels: As in `generate`.
        guidance_scale: As in `generate`.
    """
    states = pipeline.denoise(
        num_images,
        seeded_generators(seed, 0, num_images),
        num_inference_steps,
        repeat_labels(class_labels, 0, num_images),
        guidance_scale,
    )
    # A frame shows where a step has led to; the last one is x_0.
    frames = [
        ("x_0" if state.timestep is None else f"t = {int(state.timestep)}", noisy_to_pil(state.sample))
        for state in itertools.islice(states, 1, None)
    ]
    chosen = sorted(set(np.linspace(0, len(frames) - 1, num_frames).round().astype(int).tolist()))
    tiles = [frames[i][1][row] for row in range(num_images) for i in chosen]
    return make_grid(tiles, len(chosen), labels=[frames[i][0] for i in chosen])
