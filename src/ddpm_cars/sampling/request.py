"""What is to be drawn with a model: one record for the command line, the demo page, training and evaluation."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ddpm_cars.diffusion.seeds import seeded_generators
from ddpm_cars.errors import UserError
from ddpm_cars.pipeline_ddpm_cars import (
    DDPMCarsPipeline,
    classes_of_names,
    sample_shape,
    samples_with_learned_variance,
)
from ddpm_cars.sampling.samplers import check_sampler, make_scheduler


@dataclass(frozen=True, kw_only=True)
class SamplingRequest:
    """Images to draw, numbered from 0. Image i depends on `seed + i` and its class only, not on its batch.

    Attributes:
        num_images: The number of images, 1 or more.
        num_inference_steps: The number of denoising steps, 1 or more.
        batch_size: The number of images that are drawn at a time, 1 or more.
        seed: The seed of image 0, 0 or more.
        scheduler: The class of the scheduler, as `make_scheduler` takes it; None means the saved one.
        variance_type: The variance of `DDPMCarsScheduler`; None means that of the saved config.
        class_labels: Classes that the images take in turn, 1 or more, as `DDPMCarsPipeline` takes them; None for
            none.
        guidance_scale: As `DDPMCarsPipeline` takes it.
    """

    num_images: int
    num_inference_steps: int
    batch_size: int = 16
    seed: int = 0
    scheduler: str | None = None
    variance_type: str | None = None
    class_labels: Sequence[int | str] | None = None
    guidance_scale: float = 1.0

    def arguments(self, images: range) -> dict[str, Any]:
        """Return what a pipeline, or its `denoise`, is called with to draw the images of some numbers in one batch."""
        labels = self.class_labels
        return {
            "batch_size": len(images),
            "generator": seeded_generators(self.seed, images.start, images.stop),
            "num_inference_steps": self.num_inference_steps,
            "class_labels": None if labels is None else [labels[i % len(labels)] for i in images],
            "guidance_scale": self.guidance_scale,
        }

    def sampler(self, saved: Any) -> Any:
        """Return the scheduler to draw with, which is the saved one where the request names none.

        Raises:
            UserError: If there is no such scheduler, or its variance has not been measured.
        """
        if self.scheduler is None and self.variance_type is None:
            return saved
        return make_scheduler(self.scheduler or "DDPMCarsScheduler", saved.config, self.variance_type)

    def checked(self, pipeline: DDPMCarsPipeline) -> "SamplingRequest":
        """Return the request with its classes as numbers, if a model can draw it.

        Args:
            pipeline: The model, with the scheduler of the request. Digits stand for the number of a class, unless they
                are a name of one.

        Raises:
            UserError: If the model does not have the classes, needs some, cannot be guided, has an image size that
                its network cannot take, has not learned the variance of its scheduler, or the scheduler cannot draw
                from it in so many steps.
        """
        scheduler, unet = pipeline.scheduler, pipeline.unet.config
        if samples_with_learned_variance(scheduler) and unet.out_channels != 2 * unet.in_channels:
            raise UserError(
                f"variance_type is {scheduler.config.variance_type}, which a network of {2 * unet.in_channels} output "
                f"channels has learned; this one has {unet.out_channels}: choose fixed_small, or train with "
                "variance_type learned_range"
            )
        T, steps = scheduler.config.num_train_timesteps, self.num_inference_steps
        if steps > T:
            raise UserError(f"num_inference_steps is {steps}; this model was trained with {T}")
        names = classes_of_names(pipeline.config.get("id2label") or {})
        ids = None if self.class_labels is None else [_as_number(x, names) for x in self.class_labels]
        check_image_size(pipeline)
        try:
            labels = pipeline.prepare_class_labels(ids, len(ids or [0]), self.guidance_scale)
        except ValueError as error:
            raise UserError(str(error)) from error
        check_sampler(scheduler, steps)
        return replace(self, class_labels=None if ids is None or labels is None else tuple(labels.tolist()))


def _as_number(label: int | str, names: Container[str]) -> int | str:
    return int(label) if isinstance(label, str) and label.isdecimal() and label not in names else label


def check_image_size(pipeline: DDPMCarsPipeline) -> None:
    """Raise UserError if the network of a model cannot take images of the size that its config says."""
    try:
        sample_shape(pipeline.unet.config, 1)
    except ValueError as error:
        raise UserError(str(error)) from error


def class_names_of(pipeline: DDPMCarsPipeline) -> tuple[str, ...]:
    """Return the names of the classes 0, 1, ... of a model, if any. Raises UserError if its classes have no names."""
    # JSON sorts the numbers as texts.
    names = {int(i): name for i, name in (pipeline.config.get("id2label") or {}).items()}
    unet = pipeline.unet.config
    if not names and (unet.num_class_embeds is not None or unet.class_embed_type is not None):
        raise UserError(
            "the network takes classes, but id2label does not name them, so images cannot be given theirs; save the "
            "pipeline with id2label"
        )
    return tuple(names[i] for i in sorted(names))
