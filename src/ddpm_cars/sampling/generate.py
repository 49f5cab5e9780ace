"""Many images from one pipeline, and the way they come out of the noise."""

from collections.abc import Callable, Iterator, Sequence

import torch
from PIL import Image

from ddpm_cars.diffusion.seeds import seeded_generators
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.runtime.hardware import keep_freed_memory
from ddpm_cars.sampling.classes import repeat_labels


def move_for_inference(pipeline: DDPMCarsPipeline, device: torch.device) -> None:
    """Move a pipeline to a device for which drawing is all that this process does, laid out as is quickest there.

    Args:
        pipeline: Its network may be shared by others.
        device: Where it goes.
    """
    pipeline.to(device)
    keep_freed_memory(device)
    if device.type == "cpu":
        # On a GPU, group normalisation that is not compiled would copy back and forth.
        pipeline.unet.to(memory_format=torch.channels_last)


def generate(
    pipeline: DDPMCarsPipeline,
    num_images: int,
    batch_size: int = 16,
    seed: int = 0,
    num_inference_steps: int | None = None,
    class_labels: Sequence[int | str] | None = None,
    guidance_scale: float = 1.0,
    callback_on_step_end: Callable[..., dict[str, torch.Tensor] | None] | None = None,
    first_image: int = 0,
) -> Iterator[Image.Image]:
    """Draw images, batch by batch; image i depends on `seed + i` and its class only.

    Args:
        pipeline: The model.
        num_images: How many, 1 or more.
        batch_size: How many at a time, 1 or more.
        seed: Of the first image.
        num_inference_steps: Denoising steps; None is every training timestep.
        class_labels: Classes that the images take in turn, 1 or more, as `DDPMCarsPipeline` takes them.
        guidance_scale: As `DDPMCarsPipeline` takes it.
        callback_on_step_end: As `DDPMCarsPipeline` takes it.
        first_image: Number of the first image, for processes that share the work.

    Yields:
        PIL images.

    Raises:
        ValueError: If the classes or the guidance do not fit the model.
    """
    end = first_image + num_images
    for start in range(first_image, end, batch_size):
        stop = min(start + batch_size, end)
        yield from pipeline(
            stop - start,
            seeded_generators(seed, start, stop),
            num_inference_steps,
            class_labels=repeat_labels(class_labels, start, stop),
            guidance_scale=guidance_scale,
            callback_on_step_end=callback_on_step_end,
            return_dict=False,
        )[0]
