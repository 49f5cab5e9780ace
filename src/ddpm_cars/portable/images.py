"""What samples become when they leave the pipeline."""

from typing import Any, Literal, get_args

import torch
from diffusers.utils import numpy_to_pil

OutputType = Literal["pil", "np", "pt", "raw", "numpy", "latent"]


def check_output_type(output_type: str, num_channels: int) -> None:
    """Check that samples of some channels can be returned in some form.

    Raises:
        ValueError: If they cannot.
    """
    if output_type not in get_args(OutputType):
        raise ValueError(f"output_type is {output_type!r}; choose one of {get_args(OutputType)}.")
    if output_type == "pil" and num_channels not in (1, 3, 4):
        raise ValueError(f"PIL has no images of {num_channels} channels; take output_type 'np' or 'pt'.")


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
