"""The classes of a model."""

from ddpm_cars.errors import UserError
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline


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
