"""Many images from one pipeline."""

from collections.abc import Iterator

import torch
from PIL import Image

from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.runtime.hardware import keep_freed_memory
from ddpm_cars.sampling.request import SamplingRequest


def move_for_inference(pipeline: DDPMCarsPipeline, device: torch.device) -> None:
    """Move a pipeline to a device, in the layout that is quickest there, for a process that only draws."""
    pipeline.to(device)
    keep_freed_memory(device)
    if device.type == "cpu":
        # On a GPU, group normalisation that is not compiled would copy back and forth.
        pipeline.unet.to(memory_format=torch.channels_last)


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
    """
    images = range(request.num_images) if images is None else images
    for start in range(0, len(images), request.batch_size):
        batch = images[start : start + request.batch_size]
        yield from pipeline(**request.arguments(batch), return_dict=False)[0]
