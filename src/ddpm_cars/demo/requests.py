"""What visitors of the demo page may ask of a model, and the checks of what they send."""

import reprlib
from typing import Any

from ddpm_cars.errors import UserError
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.sampling.request import SamplingRequest, class_names_of
from ddpm_cars.sampling.samplers import with_scheduler
from ddpm_cars.scheduling_ddpm_cars import LEARNED_VARIANCES

OWN_SCHEDULER = "DDPMCarsScheduler"
SCHEDULERS = {
    OWN_SCHEDULER: "DDPM (DDPMCarsScheduler)",
    "DDIMScheduler": "DDIM",
    "DPMSolverMultistepScheduler": "DPM-Solver++",
    "UniPCMultistepScheduler": "UniPC",
}
# The values in the list of classes that are not the number of a class.
NO_CLASS, EVERY_CLASS = -1, -2
# Every browser and every generator of random numbers can hold numbers up to this.
MAX_SEED = 2**32 - 1
MAX_GUIDANCE = 20.0


def resolution_of(pipeline: DDPMCarsPipeline) -> int:
    """Return the height and width of the images of a model. Raises UserError if they are no squares in grey or RGB."""
    size, channels = pipeline.unet.config.sample_size, pipeline.unet.config.in_channels
    height, width = (size, size) if isinstance(size, int) else (size or (None, None))
    if height is None or height != width or channels not in (1, 3):
        raise UserError(f"the model draws {channels} channels of size {size}; the page shows squares in grey or RGB")
    return height


def scheduler_choices(pipeline: DDPMCarsPipeline) -> dict[str, str]:
    """Return the labels of schedulers by class name: the saved one first, then those of the page."""
    saved = type(pipeline.scheduler).__name__
    return {saved: SCHEDULERS.get(saved, saved), **SCHEDULERS}


def variance_choices(pipeline: DDPMCarsPipeline) -> list[str]:
    """Return the variances of `DDPMCarsScheduler` that a model can be drawn with, the saved one first."""
    config, unet = pipeline.scheduler.config, pipeline.unet.config
    calibration = config.get("_calibration") or {}
    saved = str(config.get("variance_type") or "fixed_small").removesuffix("_log")
    choices = ["fixed_small", "fixed_large"]
    if "eps_mse" in calibration:
        choices.append("analytic")
    if "band_eps_mse" in calibration:
        choices.append("spectral")
    if unet.out_channels == 2 * unet.in_channels:
        # Only the training knows which of the two the second half of the channels means.
        choices.append(saved if saved in LEARNED_VARIANCES else "learned_range")
    return sorted(choices, key=lambda name: name != saved)


def class_choices(pipeline: DDPMCarsPipeline) -> list[tuple[str, int]]:
    """Return labels and values of the list of classes, if any. Raises UserError if classes of the model lack names."""
    names = class_names_of(pipeline)
    if not names:
        return []
    choices = [("any", NO_CLASS)] if pipeline.null_class is not None else []
    return [*choices, ("each in turn", EVERY_CLASS), *((name, i) for i, name in enumerate(names))]


def whole_number(value: Any, name: str, minimum: int, maximum: int) -> int:
    """Return a number that anybody may have sent. Raises UserError if it is not whole or out of its range."""
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if not is_whole or isinstance(value, bool) or not minimum <= value <= maximum:
        shown = "empty" if value is None else reprlib.repr(value)
        raise UserError(f"{name} is {shown}; choose a whole number from {minimum} to {maximum}")
    return int(value)


def check_class(pipeline: DDPMCarsPipeline, value: Any) -> tuple[int, ...] | None:
    """Turn a choice from the list of classes into the classes that images take in turn, None for none.

    Raises UserError if the model does not have this choice.
    """
    choices = class_choices(pipeline)
    if not choices and value in (None, NO_CLASS):
        return None
    if isinstance(value, bool) or value not in [number for _, number in choices]:
        known = ", ".join(f"{number} ({name})" for name, number in choices) or "none: this model has no classes"
        raise UserError(f"the class is {reprlib.repr(value)}; choose one of {known}")
    if value == EVERY_CLASS:
        return tuple(number for _, number in choices if number >= 0)
    return None if value == NO_CLASS else (int(value),)


def check_request(
    pipeline: DDPMCarsPipeline,
    max_images: int,
    num_inference_steps: Any,
    seed: Any,
    num_images: Any,
    scheduler: Any,
    variance_type: Any,
    class_choice: Any = None,
    guidance_scale: Any = 1.0,
) -> SamplingRequest:
    """Check what a visitor, or a program in the place of one, has sent, which may be values of any type.

    Raises UserError, with a message for the visitor, if the model cannot draw this. Only `DDPMCarsScheduler` reads
    `variance_type`; `class_choice` is a value of `class_choices`.
    """
    steps = whole_number(num_inference_steps, "the number of steps", 1, pipeline.scheduler.config.num_train_timesteps)
    seed = whole_number(seed, "the seed", 0, MAX_SEED)
    num_images = whole_number(num_images, "the number of images", 1, max_images)
    for name, value, choices in (
        ("scheduler", scheduler, list(scheduler_choices(pipeline))),
        ("variance", variance_type, variance_choices(pipeline)),
    ):
        if value not in choices and (name == "scheduler" or scheduler == OWN_SCHEDULER):
            raise UserError(f"the {name} is {reprlib.repr(value)}; choose one of {', '.join(choices)}")
    labels = check_class(pipeline, class_choice)
    is_number = isinstance(guidance_scale, int | float) and not isinstance(guidance_scale, bool)
    if not is_number or not 0 <= guidance_scale <= MAX_GUIDANCE:
        raise UserError(f"the guidance is {reprlib.repr(guidance_scale)}; choose a number from 0 to {MAX_GUIDANCE:g}")
    if guidance_scale != 1 and labels is None:
        raise UserError(f"the guidance is {guidance_scale:g}, but towards no class; choose a class, or guidance 1")
    request = SamplingRequest(
        num_images=num_images,
        batch_size=num_images,
        seed=seed,
        num_inference_steps=steps,
        scheduler=scheduler,
        variance_type=variance_type if scheduler == OWN_SCHEDULER else None,
        class_labels=labels,
        guidance_scale=float(guidance_scale),
    )
    return request.checked(with_scheduler(pipeline, request.sampler(pipeline.scheduler)))
