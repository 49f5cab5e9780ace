"""The classes that a network has learned, and the names that stand for them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch


def numbers_of_names(id2label: Mapping[int, str]) -> dict[str, int]:
    """Return the class of every name; one entry may hold several names with commas between them.

    Raises ValueError if the keys are not 0, 1, ...
    """
    if sorted(id2label) != list(range(len(id2label))):
        raise ValueError(f"id2label names the classes {sorted(id2label)}; name those from 0 to {len(id2label) - 1}.")
    parts = {part.strip(): i for i, name in id2label.items() for part in name.split(",")}
    return parts | {name: i for i, name in id2label.items()}


def label_ids(numbers: Mapping[str, int], label: str | Sequence[str]) -> list[int]:
    """Return the classes of one name or several. Raises ValueError if there is no class of a name."""
    names = [label] if isinstance(label, str) else list(label)
    unknown = [name for name in names if name not in numbers]
    if unknown and not numbers:
        raise ValueError(f"{unknown} was asked for, but the classes of this model have no names: pass integers.")
    if unknown:
        raise ValueError(f"{unknown} is not among the names of classes; choose from {sorted(numbers)}.")
    return [numbers[name] for name in names]


def check_guidance(guidance_scale: float, class_labels: Any, null_class: int | None) -> None:
    """Raise ValueError if images cannot be guided to their classes; `null_class` is the one that stands for none."""
    if not math.isfinite(guidance_scale):
        raise ValueError(f"guidance_scale is {guidance_scale}; it must be a finite number.")
    if guidance_scale == 1:
        return
    if null_class is None:
        raise ValueError(
            f"guidance_scale is {guidance_scale}, but this UNet has not learned to draw without a class: leave it "
            "at 1, or train with a last class for that (num_class_embeds one above the names in id2label)."
        )
    if class_labels is None:
        raise ValueError(
            f"guidance_scale is {guidance_scale} but there is no class to be guided to: pass class_labels, or "
            "leave it at 1."
        )


def as_class_tensor(
    class_labels: Any, batch_size: int, unet_config: Any, null_class: int | None, numbers: Mapping[str, int]
) -> torch.Tensor | None:
    """Return the class of each image of a batch, integers (batch_size,), or None for a network without classes.

    `class_labels` are integers or keys of `numbers`, one per image or one for all; None stands for `null_class`.
    Raises ValueError if these are no classes of the network, or not as many as images.
    """
    num_classes = unet_config.num_class_embeds
    if num_classes is None and unet_config.class_embed_type is None:
        if class_labels is not None:
            raise ValueError("class_labels were given, but this UNet takes none (`num_class_embeds` is None).")
        return None
    if class_labels is None:
        if null_class is None:
            raise ValueError(f"This UNet draws one of {num_classes} classes: pass class_labels.")
        return torch.full((batch_size,), null_class)
    if isinstance(class_labels, str):
        class_labels = [class_labels]
    if isinstance(class_labels, Sequence):
        class_labels = [label_ids(numbers, x)[0] if isinstance(x, str) else x for x in class_labels]
    labels = torch.as_tensor(class_labels).flatten()
    if len(labels) not in (1, batch_size):
        raise ValueError(f"{len(labels)} class_labels were given for {batch_size} images; pass one, or one each.")
    if labels.is_floating_point():
        raise ValueError(f"class_labels {labels.tolist()} must be integers.")
    end = num_classes if null_class is None else null_class
    if end is not None and not bool(((labels >= 0) & (labels < end)).all()):
        raise ValueError(f"class_labels {labels.tolist()} must be from 0 to {end - 1}.")
    return labels.expand(batch_size)
