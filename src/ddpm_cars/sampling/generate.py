"""Many images from one pipeline, and strips of how images come out of noise and go into it."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image

from ddpm_cars.diffusion.seeds import seeded_generator
from ddpm_cars.errors import UserError
from ddpm_cars.figures.grids import make_grid, noisy_to_pil, to_pil
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline, DenoisingState, NonFiniteError
from ddpm_cars.runtime.hardware import keep_freed_memory
from ddpm_cars.sampling.request import SamplingRequest
from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler

DTYPES = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}
"""The types of the weights of a network that only draws, by its precision; None leaves them as they are loaded."""


def move_for_inference(pipeline: DDPMCarsPipeline, device: torch.device, mixed_precision: str = "no") -> None:
    """Move a pipeline to a device for a process that only draws, in the layout that is quickest there.

    Args:
        pipeline: The model, whose network is changed.
        device: Where it goes.
        mixed_precision: The precision of the network, one of `DTYPES`; the sampler computes in float32 or better.
    """
    pipeline.to(device)
    dtype = DTYPES[mixed_precision]
    if dtype is not None:
        # The method of the network warns of modules that must stay in float32, though it has none.
        torch.nn.Module.to(pipeline.unet, dtype)
    keep_freed_memory(device)
    if device.type == "cpu":
        # On a GPU, group normalisation that is not compiled would copy back and forth.
        pipeline.unet.to(memory_format=torch.channels_last)


def cure_for_commands(error: NonFiniteError, mixed_precision: str) -> str:
    """Say what to do, in a command, about a network of some precision or a sampler that leaves the finite numbers."""
    if not error.is_of_network:
        return "choose another scheduler or number of steps"
    if mixed_precision == "fp16":
        return "float16 ends at 65504; give --mixed_precision no or bf16"
    return (
        "weights that have diverged are the usual cause, so take those of an earlier checkpoint, or train with a "
        "lower learning_rate; a very large guidance_scale is another"
    )


@contextmanager
def non_finite_in_words(mixed_precision: str, of_what: str = "") -> Iterator[None]:
    """Raise UserError, with a cure for a command, where a network or a sampler leaves the finite numbers.

    Args:
        mixed_precision: The precision of the network, one of `DTYPES`.
        of_what: What the message begins with.
    """
    try:
        yield
    except NonFiniteError as error:
        raise UserError(f"{of_what}{error.what}: {cure_for_commands(error, mixed_precision)}") from error


def generate(
    pipeline: DDPMCarsPipeline, request: SamplingRequest, images: range | None = None
) -> Iterator[Image.Image]:
    """Draw images, batch by batch.

    Args:
        pipeline: The model, with the scheduler to draw with.
        request: What to draw.
        images: The numbers of the images to draw, which may be a part of the request or lie beyond it; None means
            all images of the request.

    Yields:
        PIL images.

    Raises:
        ValueError: If the classes, the guidance or the number of steps do not fit the model.
        NonFiniteError: If a model output or a sample of a batch is not finite.
    """
    images = range(request.num_images) if images is None else images
    for start in range(0, len(images), request.batch_size):
        batch = images[start : start + request.batch_size]
        yield from pipeline(**request.arguments(batch), return_dict=False)[0]


def forward_noising_strip(
    samples: torch.Tensor, scheduler: DDPMCarsScheduler, num_frames: int = 10, seed: int = 0
) -> Image.Image:
    """Show q(x_t | x_0) from t = 0 to T - 1 at evenly spaced t (Ho et al. 2020, eq. 4), one row per image.

    `samples` are x_0, float32 (batch, 1 or 3, height, width) in [-1, 1]. The noise is the same in every column, so
    that the strip shows one path.
    """
    T = scheduler.config.num_train_timesteps
    timesteps = np.linspace(0, T - 1, num_frames).round().astype(int).tolist()
    noise = torch.randn(samples.shape, generator=seeded_generator(seed))
    columns = [to_pil(scheduler.add_noise(samples, noise, torch.tensor(t))) for t in timesteps]
    tiles = [column[row] for row in range(len(samples)) for column in columns]
    return make_grid(tiles, num_frames, labels=[f"t = {t}" for t in timesteps])


def denoising_strip(
    pipeline: DDPMCarsPipeline, request: SamplingRequest, num_rows: int = 4, num_frames: int = 10
) -> Image.Image:
    """Show x_t from noise to the first images of a request (Ho et al. 2020, algorithm 2), one row per image.

    `num_rows` and `num_frames`, the number of columns, are upper limits.
    """
    images = range(min(num_rows, request.num_images))
    states = pipeline.denoise(**request.arguments(images))
    return make_strip([frame_of(state) for state in itertools.islice(states, 1, None)], num_frames)


def frame_of(state: DenoisingState, num_rows: int = 4) -> tuple[str, list[Image.Image]]:
    """Return a column of a strip, its label and the first images of a state of denoising."""
    label = "x_0" if state.timestep is None else f"t = {int(state.timestep)}"
    return label, noisy_to_pil(state.sample[:num_rows])


def make_strip(frames: Sequence[tuple[str, list[Image.Image]]], num_frames: int = 10) -> Image.Image:
    """Set at most `num_frames` columns side by side, evenly chosen, the first and the last among them."""
    chosen = sorted(set(np.linspace(0, len(frames) - 1, num_frames).round().astype(int).tolist()))
    tiles = [frames[i][1][row] for row in range(len(frames[0][1])) for i in chosen]
    return make_grid(tiles, len(chosen), labels=[frames[i][0] for i in chosen])
