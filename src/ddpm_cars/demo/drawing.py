"""What the demo page does, without the page: drawing step by step, noising, and the files that show them."""

import math
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ddpm_cars.data.decoding import decode_image, resize_image
from ddpm_cars.data.findings import ImageError, ValuesError
from ddpm_cars.data.pictures import to_samples
from ddpm_cars.data.value_range import ValueRange
from ddpm_cars.demo.requests import OWN_SCHEDULER, class_labels_of, noise_options, resolution_of
from ddpm_cars.diffusion.denoiser import Denoiser
from ddpm_cars.diffusion.seeds import seeded_generators
from ddpm_cars.errors import UserError
from ddpm_cars.figures.grids import make_grid, noisy_to_pil, to_pil
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline, as_images
from ddpm_cars.sampling.generate import non_finite_in_words
from ddpm_cars.sampling.request import SamplingRequest
from ddpm_cars.sampling.samplers import make_scheduler, with_scheduler

_GRID_WIDTH = 512
_MAX_FRAMES = 48
_FRAME_MS, _LAST_FRAME_MS = 80, 2500


@dataclass(frozen=True)
class Frame:
    """A state of a drawing that the page shows."""

    step: int  # The number of steps that are done; 0 is the noise that the drawing starts from.
    images: list[Image.Image]  # x_t, or the finished images after the last step.
    guesses: list[Image.Image] | None  # x_0_hat, None before the first step and where a scheduler does not report it.


@dataclass(frozen=True)
class Noised:
    """An image with noise, and the clean image that the network guesses from it."""

    x_t: Image.Image
    x_0_hat: Image.Image
    alpha_bar: float
    snr: float  # alpha_bar_t / (1 - alpha_bar_t)


def draw(pipeline: DDPMCarsPipeline, request: SamplingRequest) -> Generator[Frame, None, None]:
    """Draw images in one batch, the same as `generate` draws, and yield the noise, evenly spaced steps and the images.

    Only the config of the pipeline's scheduler is read. Raises UserError if values are not finite or memory runs out.
    """
    own, steps = with_scheduler(pipeline, request.sampler(pipeline.scheduler)), request.num_inference_steps
    own.set_progress_bar_config(disable=True)
    shown = set(np.linspace(0, steps, min(steps + 1, _MAX_FRAMES)).round().astype(int).tolist()) - {steps}
    try:
        states = own.denoise(**request.arguments(range(request.num_images)))
        with non_finite_in_words(_precision_of(pipeline)), closing(states):
            for step, (timestep, x_t, guess) in enumerate(states):
                is_last = timestep is None
                if not is_last and step not in shown:
                    continue
                images = as_images(x_t) if is_last else noisy_to_pil(x_t)
                yield Frame(steps if is_last else step, images, None if guess is None else to_pil(guess))
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise UserError(f"{request.num_images} images at once do not fit into memory; choose fewer images") from error


def _precision_of(pipeline: DDPMCarsPipeline) -> str:
    return "fp16" if pipeline.unet.dtype == torch.float16 else "no"


def first_view(pipeline: DDPMCarsPipeline, request: SamplingRequest, samples: Path | None) -> tuple[Image.Image, str]:
    """Return an image to show before anything is drawn, and a sentence that says what it is.

    It is the grid in the file `samples`, or where that cannot be read, the noise that a request starts from.
    """
    if samples is not None:
        with suppress(OSError, ImageError):
            return decode_image(str(samples), "RGB"), f"This model has drawn these before ({samples.name})."
    with closing(draw(pipeline, request)) as frames:
        noise = enlarged(next(frames).images)
    return noise, f"This is the noise that Draw begins with ({seeds_of(request)})."


def seeds_of(request: SamplingRequest) -> str:
    """Return the seeds of a request in words."""
    last = request.seed + request.num_images - 1
    return f"seed {request.seed}" if last == request.seed else f"seeds {request.seed} to {last}"


def enlarged(images: Sequence[Image.Image]) -> Image.Image:
    """Lay images out in a grid that is about 512 pixels wide; each is enlarged by a whole factor."""
    columns = math.ceil(math.sqrt(len(images)))
    return make_grid(images, columns, min_size=math.ceil(_GRID_WIDTH / columns))


def animation(frames: Sequence[Image.Image]) -> bytes:
    """Return a lossless WebP animation of images of one size. It holds the last one and then begins again."""
    durations = [*[_FRAME_MS] * (len(frames) - 1), _LAST_FRAME_MS]
    buffer = BytesIO()
    settings: dict[str, Any] = {"lossless": True, "quality": 0, "method": 0, "loop": 0}
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], duration=durations, **settings)
    return buffer.getvalue()


def squared(source: str | bytes, pipeline: DDPMCarsPipeline, value_range: ValueRange | None = None) -> Image.Image:
    """Bring the middle of a visitor's image to the size and colours of a model; see `decode_image` for `value_range`.

    Raises UserError if it is no image.
    """
    mode = "L" if pipeline.unet.config.in_channels == 1 else "RGB"
    try:
        image = decode_image(source, mode, value_range=value_range)
    except ValuesError as error:
        raise UserError(f"this file gives no image ({error.found}); choose a JPEG, PNG or WebP") from error
    except (ImageError, OSError, MemoryError) as error:
        reason = str(error) if isinstance(error, ImageError) else "it cannot be read"
        raise UserError(f"this file gives no image ({reason}); choose a JPEG, PNG or WebP") from error
    return resize_image(image, resolution_of(pipeline), "crop")


def noised(pipeline: DDPMCarsPipeline, image: Image.Image, t: Any, seed: Any, class_choice: Any = None) -> Noised:
    """Draw x_t from q(x_t | x_0) (Ho et al. 2020, eq. 4) and let the network guess x_0 from it in one look (eq. 15).

    x_0 is `image`, as `squared` returns it. Of several classes the first counts. Raises UserError if t, the seed or
    the class is not one that the model has, or the model output is not finite.
    """
    options = noise_options(pipeline)
    t, seed = options["t"].check(t), options["seed"].check(seed)
    labels = class_labels_of(pipeline, class_choice)
    scheduler = make_scheduler(OWN_SCHEDULER, pipeline.scheduler.config, "fixed_small")
    array = np.array(image)
    x_0 = to_samples(array.reshape(1, *array.shape[:2], -1))
    (generator,) = seeded_generators(seed, 0, 1)
    x_t = scheduler.add_noise(x_0, torch.randn(x_0.shape, generator=generator), torch.tensor(t))
    classes = pipeline.prepare_class_labels(None if labels is None else labels[:1], 1)
    with non_finite_in_words(_precision_of(pipeline)):
        x_0_hat, _ = Denoiser(pipeline.unet, scheduler).x_0_hat(x_t, t, classes)
    alpha_bar = float(scheduler.alphas_cumprod_float64[t])
    return Noised(to_pil(x_t)[0], to_pil(x_0_hat)[0], alpha_bar, alpha_bar / max(1 - alpha_bar, 1e-12))
