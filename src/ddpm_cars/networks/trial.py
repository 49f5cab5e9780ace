"""Whether a network can be trained, found out by a step without values, and which argument is to blame if not."""

import json
import textwrap
from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from diffusers import UNet2DModel

from ddpm_cars.errors import UserError

_BLOCKS = ("down_block_types", "up_block_types")
_RULES = {
    "attention_head_dim": "it must be at most the channels of every block with attention",
    "block_out_channels": "they must be multiples of norm_num_groups, which is 32 if it is left out",
    "norm_num_groups": "it must divide the channels of every block",
    "attn_norm_num_groups": "it must divide the channels of the last block",
}
_MAX_SHOWN = 120  # Characters of a value, and of what Diffusers says.


def step_without_values(unet: UNet2DModel) -> None:
    """Take a forward and backward pass of a network on torch's device meta, where tensors have only shapes.

    That takes no memory and no arithmetic. Whatever error comes of it passes.
    """
    num_images, size = 2, unet.config.sample_size
    x_t = torch.zeros(num_images, unet.config.in_channels, size, size, device="meta")
    t = torch.zeros(num_images, dtype=torch.long, device="meta")
    output = unet(x_t, t, class_labels=None if unet.class_embedding is None else t).sample
    expected = (num_images, unet.config.out_channels, size, size)
    if output.shape != expected:
        raise ValueError(f"it makes {tuple(output.shape)} of {tuple(x_t.shape)}, and {expected} is wanted")
    output.square().mean().backward()


def explained(name: str, arguments: Mapping[str, Any], error: Exception) -> UserError:
    """Return the error of arguments with which a network cannot be built, or cannot take a step.

    Args:
        name: What gives the arguments, such as "model_config unet.json".
        arguments: Those of `UNet2DModel`.
        error: What was raised.
    """
    said = _shortened(str(error))
    # Diffusers checks its arguments with these; others come from what the arguments led to.
    cause = said if said and isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: {said}"
    blamed = _to_blame(arguments)
    if not blamed:
        return UserError(f"{name} does not describe a UNet2DModel that can be trained: {cause}")
    values = " and ".join(f"{key} {_shortened(json.dumps(arguments[key]))}" for key in blamed)
    is_text = isinstance(arguments[blamed[0]], str) and isinstance(_default(blamed[0]), int | float)
    rule = "it must be a number" if is_text else _RULES.get(blamed[0], "")
    rule = f": {rule}" if rule else ""
    return UserError(
        f"{name} does not describe a UNet2DModel that can be trained, because of its {values}{rule} ({cause})"
    )


def _default(name: str) -> Any:
    return signature(UNet2DModel.__init__).parameters[name].default


def _shortened(text: str) -> str:
    """Return text in one line, without the words that make it too long."""
    return textwrap.shorten(text, _MAX_SHOWN, placeholder=" ...")


def _to_blame(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the arguments without which the network works; none if they cannot be told from the others."""
    names = [(name,) for name in arguments if name not in ("sample_size", "block_out_channels")]
    for tried in [*names, _BLOCKS, ("block_out_channels",)]:
        if all(name in arguments for name in tried):
            try:
                plain = {name: _plain(name, arguments) for name in tried}
                with torch.device("meta"):
                    step_without_values(UNet2DModel(**{**arguments, **plain}))
            except Exception:
                # Whatever it is, something else is wrong.
                continue
            return tried
    return ()


def _plain(name: str, arguments: Mapping[str, Any]) -> Any:
    """Return a value of an argument that goes with any other arguments, if there is one, else its default."""
    num_levels = len(arguments["down_block_types" if name == "block_out_channels" else "block_out_channels"])
    plain: dict[str, Any] = {
        "down_block_types": ["DownBlock2D"] * num_levels,
        "up_block_types": ["UpBlock2D"] * num_levels,
        "block_out_channels": [32] * num_levels,
        "attention_head_dim": 1,
        "norm_num_groups": 1,
    }
    return plain[name] if name in plain else _default(name)
