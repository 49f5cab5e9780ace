"""TODO src/ddpm_cars/sampling/classes.py."""

from collections.abc import Sequence

from ddpm_cars.errors import UserError
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline, samples_with_learned_variance


def class_names_of(pipeline: DDPMCarsPipeline) -> tuple[str, ...]:
    """Return the names of the classes 0, 1, ... of a model, empty if it has none.

    Raises:
        UserError: If its network takes classes that have no names.
    """
    # JSON sorts the numbers as texts.
    names = {int(i): name for i, name in (pipeline.config.get("id2label") or {}).items()}
    unet = pipeline.unet.config
    if not names and (unet.num_class_embeds is not None or unet.class_embed_type is not None):
        raise UserError(
            "the network takes classes, but id2label does not name them, so images cannot be given theirs; save the "
            "pipeline with id2label"
        )
    return tuple(names[i] for i in sorted(names))


def check_learned_variance(pipeline: DDPMCarsPipeline) -> None:
    """See that a model whose scheduler samples with a learned variance has learned one.

    Raises:
        UserError: If its network has no second half of output channels for it.
    """
    unet, doubled = pipeline.unet.config, 2 * pipeline.unet.config.in_channels
    if samples_with_learned_variance(pipeline.scheduler) and unet.out_channels != doubled:
        variance_type = pipeline.scheduler.config.variance_type
        raise UserError(
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
        UserError: If the model does not have these classes, needs some, or cannot be guided.
    """
    ids: list[str | int] | None = None
    if class_labels is not None:
        texts = [str(label) for label in class_labels]
        ids = [int(text) if text.isdecimal() and text not in pipeline.labels else text for text in texts]
    try:
        labels = pipeline.prepare_class_labels(ids, len(ids or [0]), guidance_scale)
    except ValueError as error:
        raise UserError(str(error)) from error
    return None if ids is None or labels is None else labels.tolist()


def repeat_labels(class_labels: Sequence[int | str] | None, start: int, stop: int) -> list[int | str] | None:
    """Return the classes of images `start` to `stop - 1`, which take them in turn."""
    return None if class_labels is None else [class_labels[i % len(class_labels)] for i in range(start, stop)]
