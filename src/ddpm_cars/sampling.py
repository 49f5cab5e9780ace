"""Many pictures from one pipeline, and the way they come out of the noise."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import diffusers
import numpy as np
import torch
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError
from PIL import Image

from ddpm_cars.config import ConfigError
from ddpm_cars.hardware import keep_freed_memory
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.plots import make_grid, noisy_to_pil
from ddpm_cars.scheduling_ddpm_cars import CALIBRATED_VARIANCES, DDPMCarsScheduler, VarianceType


def load_pipeline(name: str) -> DDPMCarsPipeline:
    """Load a saved pipeline.

    Args:
        name: Its folder, or its id on the Hub.

    Raises:
        ConfigError: If there is none that loads.
    """
    folder = Path(name)
    if folder.is_dir() and not (folder / "model_index.json").is_file():
        if (folder / "checkpoints").is_dir():
            raise ConfigError(
                f"{name} is a run that has not finished (no model_index.json); the same training command continues "
                "it, and with --max_train_steps at the step of its checkpoint ends it there"
            )
        raise ConfigError(f"{name} holds no saved pipeline: there is no model_index.json")
    try:
        return DDPMCarsPipeline.from_pretrained(name)
    except (OSError, ValueError) as error:
        if folder.is_dir():
            raise ConfigError(f"no pipeline can be loaded from {name}: {error}") from error
        reason = _why_not_from_hub(error)
        raise ConfigError(
            f"there is no folder {name}, and no such model can be had from the Hub ({reason})"
        ) from error


def _why_not_from_hub(error: Exception) -> str:
    """Return in a few words what diffusers tells in several sentences about its own arguments."""
    cause = error.__cause__
    if isinstance(error, ValueError):
        return "its ids are NAME or OWNER/NAME"
    if isinstance(cause, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, and it is not in the cache"
    if isinstance(cause, RepositoryNotFoundError | GatedRepoError):
        return "it does not exist there, or is private to others"
    return f"{type(cause or error).__name__}, and it is not in the cache"


def place_to_draw(pipeline: DDPMCarsPipeline, device: torch.device) -> None:
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


def make_scheduler(name: str, config: Any, variance_type: str | None = None) -> Any:
    """Build a scheduler by class name from the config of another.

    Args:
        name: `DDPMCarsScheduler` or a scheduler class of diffusers, such as `DDIMScheduler`.
        config: The config to take over.
        variance_type: Of the steps; None leaves it as it is in the config.

    Raises:
        ConfigError: If there is no such class, it does not work with these models, or `variance_type` depends on a
            calibration that the config does not hold.
    """
    if variance_type in CALIBRATED_VARIANCES:
        measured = "band_eps_mse" if variance_type == "spectral" else "eps_mse"
        if measured not in (config.get("_calibration") or {}):
            raise ConfigError(
                f"variance_type is {variance_type}, which has to be measured of the model first: give its folder to "
                f"scripts/calibrate.py --variance_type {variance_type}, or choose fixed_small"
            )
    options = {} if variance_type is None else {"variance_type": variance_type}
    names = [e.name for e in diffusers.schedulers.KarrasDiffusionSchedulers]
    if name == "DDPMCarsScheduler":
        return DDPMCarsScheduler.from_config(config, **options)
    if name not in names:
        raise ConfigError(f"scheduler is {name}; choose DDPMCarsScheduler or one of {', '.join(sorted(names))}")
    return getattr(diffusers, name).from_config(config, **options)


def sampler_from_config(name: str, config: Any) -> Any:
    """Build a scheduler from the config of another, by one word.

    Args:
        name: A variance of `DDPMCarsScheduler`, such as "fixed_small", or a name that `make_scheduler` knows.
        config: The config to take over.

    Raises:
        ConfigError: If there is no such variance or class.
    """
    if name in get_args(VarianceType):
        return make_scheduler("DDPMCarsScheduler", config, variance_type=name)
    return make_scheduler(name, config)


def seeded_generators(seed: int, start: int, stop: int) -> list[torch.Generator]:
    """Return a generator per picture: picture i is drawn from the seed `seed + i`, whatever its batch."""
    return [torch.Generator().manual_seed(seed + i) for i in range(start, stop)]


def class_names_of(pipeline: DDPMCarsPipeline) -> tuple[str, ...]:
    """Return the names of the classes 0, 1, ... of a model, empty if it has none.

    Raises:
        ConfigError: If its network takes classes that have no names.
    """
    # JSON sorts the numbers as texts.
    names = {int(i): name for i, name in (pipeline.config.get("id2label") or {}).items()}
    unet = pipeline.unet.config
    if not names and (unet.num_class_embeds is not None or unet.class_embed_type is not None):
        raise ConfigError(
            "the network takes classes, but id2label does not name them, so pictures cannot be given theirs; save the "
            "pipeline with id2label"
        )
    return tuple(names[i] for i in sorted(names))


def check_learned_variance(pipeline: DDPMCarsPipeline) -> None:
    """See that a model whose scheduler samples with a learned variance has learned one.

    Raises:
        ConfigError: If its network has no second half of output channels for it.
    """
    unet, doubled = pipeline.unet.config, 2 * pipeline.unet.config.in_channels
    if pipeline._samples_with_learned_variance() and unet.out_channels != doubled:
        variance_type = pipeline.scheduler.config.variance_type
        raise ConfigError(
            f"variance_type is {variance_type}, which a network of {doubled} output channels has learned; this one "
            f"has {unet.out_channels}: choose fixed_small, or train with variance_type learned_range"
        )


def as_class_ids(
    pipeline: DDPMCarsPipeline, class_labels: Sequence[str | int] | None, guidance_scale: float = 1.0
) -> list[int] | None:
    """Turn the classes of a command line into those of a model; a number is one that is not a name.

    Args:
        pipeline: The model.
        class_labels: Names or numbers in text, 1 or more; None is none.
        guidance_scale: What they are to be drawn with.

    Returns:
        What `generate` takes as `class_labels`.

    Raises:
        ConfigError: If the model does not have these classes, needs some, or cannot be guided.
    """
    ids: list[str | int] | None = None
    if class_labels is not None:
        texts = [str(label) for label in class_labels]
        ids = [int(text) if text.isdecimal() and text not in pipeline.labels else text for text in texts]
    try:
        pipeline._check_guidance(guidance_scale, ids)
        labels = pipeline._prepare_class_labels(ids, len(ids or [0]), torch.device("cpu"))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return None if ids is None or labels is None else labels.tolist()


def cycled(class_labels: Sequence[int | str] | None, start: int, stop: int) -> list[int | str] | None:
    """Return the classes of pictures `start` to `stop - 1`, which take them in turn."""
    return None if class_labels is None else [class_labels[i % len(class_labels)] for i in range(start, stop)]


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
    """Draw pictures, batch by batch; picture i depends on `seed + i` and its class only.

    Args:
        pipeline: The model.
        num_images: How many, 1 or more.
        batch_size: How many at a time, 1 or more.
        seed: Of the first picture.
        num_inference_steps: Denoising steps; None is every training timestep.
        class_labels: Classes that the pictures take in turn, 1 or more, as `DDPMCarsPipeline` takes them.
        guidance_scale: As `DDPMCarsPipeline` takes it.
        callback_on_step_end: As `DDPMCarsPipeline` takes it.
        first_image: Number of the first picture, for processes that share the work.

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
            class_labels=cycled(class_labels, start, stop),
            guidance_scale=guidance_scale,
            callback_on_step_end=callback_on_step_end,
            return_dict=False,
        )[0]


def denoising_strip(
    pipeline: DDPMCarsPipeline,
    num_images: int = 4,
    seed: int = 0,
    num_inference_steps: int | None = None,
    num_frames: int = 10,
    class_labels: Sequence[int | str] | None = None,
    guidance_scale: float = 1.0,
) -> Image.Image:
    """Show x_t from noise to picture (Ho et al. 2020, algorithm 2), one row per picture.

    Args:
        pipeline: The model.
        num_images: Rows.
        seed: As in `generate`, so that the last column is the pictures of that.
        num_inference_steps: Denoising steps; None is every training timestep.
        num_frames: Columns, cut to the number of steps where that is smaller.
        class_labels: As in `generate`.
        guidance_scale: As in `generate`.
    """
    frames: list[tuple[int, list[Image.Image]]] = []

    def keep(pipe: Any, step_index: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]) -> dict:
        x_t = tensors["latents"]
        frames.append((int(timestep), noisy_to_pil(x_t)))
        return {}

    pipeline(
        num_images,
        seeded_generators(seed, 0, num_images),
        num_inference_steps,
        output_type="raw",
        callback_on_step_end=keep,
        class_labels=cycled(class_labels, 0, num_images),
        guidance_scale=guidance_scale,
    )
    chosen = sorted(set(np.linspace(0, len(frames) - 1, num_frames).round().astype(int).tolist()))
    tiles = [frames[i][1][row] for row in range(num_images) for i in chosen]
    # A frame shows x_s, what the step from its timestep led to; the last one is x_0.
    labels = [f"t = {frames[i + 1][0]}" if i + 1 < len(frames) else "x_0" for i in chosen]
    return make_grid(tiles, len(chosen), labels=labels)
