"""Sampling step by step: the classes to draw, the states between steps, the prediction of a step, and the images."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, SupportsIndex

import torch
from diffusers.utils import numpy_to_pil

from ddpm_cars.portable.variances import LEARNED_VARIANCES

OutputType = Literal["pil", "np", "pt", "raw", "numpy", "latent"]


class DenoisingState(NamedTuple):
    """A batch of images between two steps of sampling.

    Attributes:
        timestep: t, the timestep that the next step starts from, shape (); None after the last step.
        sample: x_t, float32 (batch, channels, height, width), not clipped to [-1, 1].
        pred_original_sample: x_0_hat, the estimate of x_0 in the step that led to x_t, shaped like `sample`; None
            before the first step, and where the scheduler does not report it.
    """

    timestep: torch.Tensor | None
    sample: torch.Tensor
    pred_original_sample: torch.Tensor | None


def samples_with_learned_variance(scheduler: Any) -> bool:
    """Return whether a scheduler reads the variance of its steps from a second half of the model output."""
    # Configs keep the keys of other classes, so "variance_type" alone does not tell.
    get_variance = getattr(scheduler, "_get_variance", None)
    if get_variance is None or "predicted_variance" not in inspect.signature(get_variance).parameters:
        return False
    return scheduler.config.variance_type in LEARNED_VARIANCES


def classes_of_names(id2label: Mapping[Any, str]) -> dict[str, list[int]]:
    """Return the classes that every name may mean: one, or several that share a short name.

    Commas part several short names of one class. A whole name means its own class, whatever others are called for
    short. Raises ValueError if the keys are not 0, 1, ...
    """
    names = {int(i): name for i, name in id2label.items()}
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"id2label names the classes {sorted(names)}; name those from 0 to {len(names) - 1}.")
    short, whole = dict[str, list[int]](), dict[str, list[int]]()
    for i, name in sorted(names.items()):
        whole.setdefault(name, []).append(i)
        for part in dict.fromkeys(part.strip() for part in name.split(",")):
            if part:
                short.setdefault(part, []).append(i)
    return short | whole


def label_ids(id2label: Mapping[Any, str], label: str | Sequence[str]) -> list[int]:
    """Return the classes of one name or several. Raises ValueError if a name is that of no class, or of several."""
    classes = classes_of_names(id2label)
    names = [label] if isinstance(label, str) else list(label)
    unknown = [name for name in names if name not in classes]
    if unknown and not classes:
        raise ValueError(f"{unknown} was asked for, but the classes of this model have no names: pass integers.")
    if unknown:
        clear = sorted(name for name, numbers in classes.items() if len(numbers) == 1)
        raise ValueError(f"{unknown} is not among the names of classes; choose from {clear}.")
    for name in names:
        if len(numbers := classes[name]) > 1:
            whole = {int(i): text for i, text in id2label.items()}
            listed = " and ".join(f"{i} ({whole[i]!r})" for i in numbers)
            raise ValueError(f"{name!r} may mean the classes {listed}: pass a whole name that differs, or the number.")
    return [classes[name][0] for name in names]


def class_tensor(
    class_labels: Any,
    batch_size: int,
    guidance_scale: float,
    unet_config: Any,
    null_class: int | None,  # the class that stands for no class, None for a network that has learned none
    id2label: Mapping[Any, str],  # empty where classes have no names
) -> torch.Tensor | None:
    """Return the class of each image of a batch, integers (batch_size,), or None for a network without classes.

    `class_labels` are integers or names, one per image or one for all; None stands for `null_class`.
    Raises ValueError if these are no classes of the network, not as many as images, or cannot be guided to.
    """
    if not math.isfinite(guidance_scale):
        raise ValueError(f"guidance_scale is {guidance_scale}; it must be a finite number.")
    if guidance_scale != 1 and null_class is None:
        raise ValueError(
            f"guidance_scale is {guidance_scale}, but this UNet has not learned to draw without a class: leave it "
            "at 1, or train with a last class for that (num_class_embeds one above the names in id2label)."
        )
    if guidance_scale != 1 and class_labels is None:
        raise ValueError(
            f"guidance_scale is {guidance_scale} but there is no class to be guided to: pass class_labels, or "
            "leave it at 1."
        )
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
        class_labels = [label_ids(id2label, x)[0] if isinstance(x, str) else x for x in class_labels]
    labels = torch.as_tensor(class_labels).flatten()
    if len(labels) not in (1, batch_size):
        raise _wrong_length("class_labels", len(labels), batch_size, "one class, or one for each image")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"class_labels {labels.tolist()} must be integers.")
    end = num_classes if null_class is None else null_class
    if end is not None and not bool(((labels >= 0) & (labels < end)).all()):
        raise ValueError(f"class_labels {labels.tolist()} must be from 0 to {end - 1}.")
    return labels.expand(batch_size)


def checked_number(name: str, value: Any) -> int:
    """Return a number of something. Raises TypeError if it is not whole, and ValueError if it is below 1."""
    if not isinstance(value, SupportsIndex) and not (isinstance(value, float) and value.is_integer()):
        raise TypeError(f"{name} is {value!r}; it must be a whole number.")
    if int(value) < 1:
        raise ValueError(f"{name} is {value}; it must be 1 or more.")
    return int(value)


def checked_generators(generator: Any, batch_size: int) -> torch.Generator | list[torch.Generator] | None:
    """Return the source of noise as diffusers takes it: None, a generator, or a list with one for every image.

    Raises ValueError if a sequence is not as long as the batch, and TypeError if there is anything else in it.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    generators = list(generator) if isinstance(generator, Iterable) else [generator]
    for other in generators:
        if not isinstance(other, torch.Generator):
            raise TypeError(
                f"generator is or holds {other!r}; pass a torch.Generator, such as torch.Generator().manual_seed(0), "
                "or one for each image."
            )
    if len(generators) != batch_size:
        raise _wrong_length("generator", len(generators), batch_size, "one generator for each image")
    return generators


def _wrong_length(name: str, length: int, batch_size: int, fitting: str) -> ValueError:
    cure = f", or give batch_size={length}" if length else ""
    return ValueError(f"The length of {name} is {length} and batch_size is {batch_size}; pass {fitting}{cure}.")


def sample_shape(unet_config: Any, batch_size: int, latents: torch.Tensor | None = None) -> tuple[int, ...]:
    """Return the shape of the samples that a network draws: its own image size, or that of `latents`.

    Raises TypeError or ValueError if `latents` cannot be what sampling starts from, or the network cannot take the
    size.
    """
    if latents is not None and not (isinstance(latents, torch.Tensor) and latents.is_floating_point()):
        kind = latents.dtype if isinstance(latents, torch.Tensor) else type(latents).__name__
        raise TypeError(f"latents is of type {kind}; pass a floating-point tensor (batch, channels, height, width).")
    size, num_channels = unet_config.sample_size, unet_config.in_channels
    if latents is not None and latents.ndim == 4:
        size = latents.shape[2:]
    if size is None:
        raise ValueError("The UNet's config has no `sample_size`; set it to the image size it was trained on.")
    height, width = (size, size) if isinstance(size, int) else size
    shape = (batch_size, num_channels, height, width)
    if latents is not None and latents.shape != shape:
        cure = f", or give batch_size={len(latents)}" if latents.shape[1:] == shape[1:] and len(latents) else ""
        raise ValueError(
            f"latents has shape {tuple(latents.shape)}; it must be {shape}: "
            f"(batch_size, channels, height, width){cure}."
        )
    # Every block but the last halves the image, and what does not divide does not fit on the way back.
    factor = 2 ** (len(unet_config.get("block_out_channels", (1,))) - 1)
    if any(side < 1 or side % factor for side in (height, width)):
        name = "sample_size" if latents is None else "the size of latents"
        raise ValueError(
            f"{name} is {height} x {width}, which this UNet cannot take: it halves images {factor.bit_length() - 1} "
            f"times, so height and width must be multiples of {factor}."
        )
    if latents is not None and not latents.isfinite().all():
        raise ValueError("latents holds values that are not finite.")
    return shape


def guided_output(
    network: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor],
    dtype: torch.dtype,  # of the network
    scheduler: Any,
    x_t: torch.Tensor,
    t: torch.Tensor,
    labels: torch.Tensor | None,  # on the device of x_t
    guidance_scale: float,
    null_class: int | None,  # the class that stands for no class, None for a network that has learned none
) -> torch.Tensor:
    """Return the model output eps_none + guidance_scale (eps_class - eps_none), or alike of x_0 or v, in x_t's dtype.

    This is Ho & Salimans 2022, eq. 6. A learned variance, the second half of the channels, is that of the class; it is
    left out for schedulers that do not sample with it.
    """
    model_input = scheduler.scale_model_input(x_t, t).to(dtype)
    if t.device != x_t.device:
        # The number is written there: a copy would wait for the device at every step.
        t = torch.full((), t.item(), dtype=t.dtype, device=x_t.device)
    n = x_t.shape[1]
    if guidance_scale == 1 or labels is None or null_class is None:
        model_output = network(model_input, t, labels).to(x_t.dtype)
    else:
        both = torch.cat([labels, torch.full_like(labels, null_class)])
        of_class, of_none = network(torch.cat([model_input] * 2), t, both).to(x_t.dtype).chunk(2)
        # A learned variance is no direction to go further in.
        of_class, variance, of_none = of_class[:, :n], of_class[:, n:], of_none[:, :n]
        model_output = torch.cat([of_none + guidance_scale * (of_class - of_none), variance], dim=1)
    if model_output.shape[1] == 2 * n and not samples_with_learned_variance(scheduler):
        return model_output[:, :n]
    return model_output


def as_images(sample: torch.Tensor, output_type: OutputType = "pil") -> Any:
    """Turn the sample that the last step of sampling leads to into images.

    Args:
        sample: x_0, floating point (batch, channels, height, width). Values outside [-1, 1] are clipped.
        output_type: "pil" for PIL images, "np" for a float32 array (batch, height, width, channels) in [0, 1], "pt"
            for a float32 tensor (batch, channels, height, width) in [0, 1], "raw" for that in [-1, 1]. "numpy" and
            "latent" are older names of "np" and "raw" in diffusers.
    """
    x_0 = sample.float().clamp(-1, 1)
    if output_type in ("raw", "latent"):
        return x_0
    images = x_0 / 2 + 0.5
    if output_type == "pt":
        return images
    array = images.permute(0, 2, 3, 1).cpu().numpy()
    return numpy_to_pil(array) if output_type == "pil" else array
