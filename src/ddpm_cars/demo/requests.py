"""What visitors of the demo page may set, each said once: its words, its values, and the check of what was sent."""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ddpm_cars.errors import UserError
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.sampling.request import SamplingRequest, class_names_of
from ddpm_cars.sampling.samplers import able_schedulers, with_scheduler
from ddpm_cars.scheduling_ddpm_cars import LEARNED_VARIANCES

OWN_SCHEDULER = "DDPMCarsScheduler"
SCHEDULERS = {
    OWN_SCHEDULER: "DDPM (DDPMCarsScheduler)",
    "DDIMScheduler": "DDIM",
    "DPMSolverMultistepScheduler": "DPM-Solver++",
    "UniPCMultistepScheduler": "UniPC",
}
# The other schedulers do not report x_0_hat.
WATCHABLE = (OWN_SCHEDULER, "DDPMScheduler", "DDIMScheduler")
VARIANCE_LABELS = {
    "fixed_small": "small, β̃ (fixed_small)",
    "fixed_large": "large, β (fixed_large)",
    "analytic": "analytic, measured on the model",
    "spectral": "spectral, measured by frequency",
    "learned": "learned",
    "learned_range": "learned, between β̃ and β",
}
NOISY, GUESS = "the noisy image", "the network's guess"
# The values in the list of classes that are not the number of a class.
NO_CLASS, EVERY_CLASS = -1, -2
# Every browser and every generator of random numbers can hold numbers up to this.
MAX_SEED = 2**32 - 1
MAX_GUIDANCE = 20


@dataclass(frozen=True)
class Number:
    """A number that a visitor sets, which is whole where its step is."""

    name: str  # What a message calls it.
    label: str
    info: str  # A sentence for somebody who has not seen it before.
    minimum: int | float
    maximum: int | float
    default: int | float
    step: int | float = 1
    field: str = ""  # The field of `SamplingRequest` that it sets, if any.
    is_offered: bool = True  # Whether the model has a use for it.

    def check(self, value: Any) -> Any:
        """Return a value that anybody may have sent. Raises UserError if it is none that the page offers."""
        is_whole, is_number = self.step == 1, isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not self.minimum <= value <= self.maximum or (is_whole and value != int(value)):
            shown = "empty" if value is None else reprlib.repr(value)
            kind = "a whole number" if is_whole else "a number"
            raise UserError(f"{self.name} is {shown}; choose {kind} from {self.minimum} to {self.maximum}")
        return int(value) if is_whole else float(value)


@dataclass(frozen=True)
class Choice:
    """A choice of a visitor. The first one is the default; the page shows none where there are no choices."""

    name: str  # What a message calls it.
    label: str
    info: str  # A sentence for somebody who has not seen it before.
    choices: tuple[tuple[str, Any], ...]  # Labels and values.
    field: str = ""  # The field of `SamplingRequest` that it sets, if any.

    @property
    def default(self) -> Any:
        """The value before the visitor has chosen, None where there are no choices."""
        return self.choices[0][1] if self.choices else None

    @property
    def is_offered(self) -> bool:
        """Whether the model has something to choose from."""
        return bool(self.choices)

    def check(self, value: Any) -> Any:
        """Return a value that anybody may have sent. Raises UserError if it is none that the page offers."""
        if not self.choices and value is None:
            return None
        if isinstance(value, bool) or value not in [known for _, known in self.choices]:
            named = [known if isinstance(known, str) else f"{known} ({label})" for label, known in self.choices]
            cure = f"choose one of {', '.join(named)}" if named else "this model has none to choose from"
            raise UserError(f"{self.name} is {reprlib.repr(value)}; {cure}")
        return value


Option = Number | Choice


def draw_options(pipeline: DDPMCarsPipeline, max_images: int) -> dict[str, Option]:
    """Return what a visitor sets for a drawing, by the names that programs send it under, in their order.

    Raises UserError if the classes of the model lack names.
    """
    T, saved = pipeline.scheduler.config.num_train_timesteps, type(pipeline.scheduler).__name__
    steps = min(100, T)
    schedulers = {saved: saved, **SCHEDULERS}
    # Some take every number of steps but the largest.
    able = {saved, OWN_SCHEDULER}.union(
        *(able_schedulers(schedulers, pipeline.scheduler.config, n) for n in {steps, max(1, steps // 2)})
    )
    return {
        "steps": Number(
            "the number of steps", "Steps",
            "How many steps lead from noise to image. More take longer and draw better.",
            1, T, steps, field="num_inference_steps",
        ),
        "seed": Number(
            "the seed", "Seed of the first image",
            "Chooses the noise to start from; further images take the numbers after it. The same seed draws the same.",
            0, MAX_SEED, 0, field="seed",
        ),
        "num_images": Number(
            "the number of images", "Images", "How many images are drawn at once.",
            1, max_images, min(4, max_images), field="num_images",
        ),
        "scheduler": Choice(
            "the scheduler", "Sampler", "The rule of a step. DDIM, DPM-Solver++ and UniPC are made for few steps.",
            tuple((label, name) for name, label in schedulers.items() if name in able), field="scheduler",
        ),
        "variance": Choice(
            "the variance", "Variance of the noise that a step adds",
            "How much fresh noise each step of DDPM mixes in. The first choice was saved with the model.",
            tuple((VARIANCE_LABELS[name], name) for name in variance_choices(pipeline)), field="variance_type",
        ),
        "label": _class_option(pipeline),
        "guidance": Number(
            "the guidance", "Guidance",
            "1 follows the class alone; more makes images clearer and more alike.",
            0, MAX_GUIDANCE, 1, step=0.1, field="guidance_scale", is_offered=pipeline.null_class is not None,
        ),
        "watched": Choice(
            "what to watch", "Watch", "What is shown while the drawing goes on.", ((NOISY, NOISY), (GUESS, GUESS))
        ),
    }  # fmt: skip


def noise_options(pipeline: DDPMCarsPipeline) -> dict[str, Option]:
    """Return what a visitor sets where an image gets noise, in the order in which programs send it."""
    T = pipeline.scheduler.config.num_train_timesteps
    about_t = f"0 has the least noise. At {T - 1} next to nothing of the image is left."
    return {
        "t": Number("the timestep t", "Timestep t", about_t, 0, T - 1, T // 4),
        "seed": Number(
            "the seed", "Seed of the noise", "Chooses the noise. The same seed adds the same noise.", 0, MAX_SEED, 0
        ),
        "label": _class_option(pipeline),
    }


def schedule_steps(pipeline: DDPMCarsPipeline) -> Number:
    """Return the number of steps whose timesteps are marked in the schedule."""
    T = pipeline.scheduler.config.num_train_timesteps
    about = f"How many of the {T} timesteps a drawing visits. The dots show which."
    return Number("the number of steps", "Steps", about, 1, T, min(50, T))


def _class_option(pipeline: DDPMCarsPipeline) -> Choice:
    names = class_names_of(pipeline)
    choices = [("any", NO_CLASS)] if names and pipeline.null_class is not None else []
    if names:
        choices += [("each in turn", EVERY_CLASS), *((name, i) for i, name in enumerate(names))]
    return Choice("the class", "Class", "What the images show.", tuple(choices))


def resolution_of(pipeline: DDPMCarsPipeline) -> int:
    """Return the height and width of the images of a model. Raises UserError if they are no squares in grey or RGB."""
    size, channels = pipeline.unet.config.sample_size, pipeline.unet.config.in_channels
    height, width = (size, size) if isinstance(size, int) else (size or (None, None))
    if height is None or height != width or channels not in (1, 3):
        raise UserError(
            f"the model draws {channels} channels of size {size}, and the page shows squares in grey or RGB; "
            "draw with ddpm-cars sample"
        )
    return height


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


def class_labels_of(pipeline: DDPMCarsPipeline, choice: Any) -> tuple[int, ...] | None:
    """Turn a choice from the list of classes into the classes that images take in turn, None for none.

    Raises UserError if the model does not have this choice.
    """
    option = _class_option(pipeline)
    if choice == NO_CLASS and not option.choices:
        return None
    number = option.check(choice)
    if number == EVERY_CLASS:
        return tuple(known for _, known in option.choices if known >= 0)
    return None if number in (None, NO_CLASS) else (int(number),)


def check_request(
    pipeline: DDPMCarsPipeline, options: Mapping[str, Option], values: Mapping[str, Any]
) -> SamplingRequest:
    """Check what a visitor, or a program in the place of one, has sent, which may be values of any type.

    Args:
        pipeline: The model.
        options: What `draw_options` returns.
        values: What was sent for each of the options. Without a value an option has its default.

    Raises:
        UserError: If the model cannot draw this; the message is for the visitor. Only `DDPMCarsScheduler` reads the
            variance.
    """
    sent = {name: values.get(name, option.default) for name, option in options.items()}
    labels = class_labels_of(pipeline, sent["label"])
    if sent["scheduler"] != OWN_SCHEDULER:
        del sent["variance"]
    checked = {options[name].field: options[name].check(value) for name, value in sent.items() if options[name].field}
    guidance = checked["guidance_scale"]
    if guidance != 1 and labels is None:
        raise UserError(f"the guidance is {guidance:g}, but towards no class; choose a class, or guidance 1")
    request = SamplingRequest(**checked, batch_size=checked["num_images"], class_labels=labels)
    return request.checked(with_scheduler(pipeline, request.sampler(pipeline.scheduler)))
