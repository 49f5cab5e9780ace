"""UNets by name, or from a file of arguments. This is the only module that knows how a network is built."""

import json
from pathlib import Path
from typing import Any

from diffusers import UNet2DModel

from ddpm_cars.errors import UserError

_PLAIN, _ATTENTION = ("DownBlock2D", "UpBlock2D"), ("AttnDownBlock2D", "AttnUpBlock2D")


def _levels(*attention: bool) -> dict[str, tuple[str, ...]]:
    """Return the names of the blocks of a UNet, from the finest level down; True marks a level with self-attention."""
    blocks = [_ATTENTION if a else _PLAIN for a in attention]
    return {
        "down_block_types": tuple(down for down, _ in blocks),
        "up_block_types": tuple(up for _, up in reversed(blocks)),
    }


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "block_out_channels": (24, 48, 96),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 32,
        **_levels(False, False, False),
    },
    # Ho et al. 2020, appendix B, for CIFAR10: attention at 16x16.
    "32": {"block_out_channels": (128, 256, 256, 256), "layers_per_block": 2, **_levels(False, True, False, False)},
    "64": {"block_out_channels": (128, 256, 256, 384), "layers_per_block": 2, **_levels(False, False, True, True)},
    # The network of diffusers' examples/unconditional_image_generation/train_unconditional.py.
    "peer64": {
        "block_out_channels": (128, 128, 256, 256, 512, 512),
        "layers_per_block": 2,
        **_levels(False, False, False, False, True, False),
    },
}


def create_unet(
    preset: str, resolution: int, model_config: str | None = None, *, learn_variance: bool = False, **overrides: Any
) -> UNet2DModel:
    """Build a network with fresh weights, drawn from torch's global generator.

    Args:
        preset: A key of `PRESETS`.
        resolution: Height and width of its images, a multiple of 2 for every level below the first.
        model_config: Path of a JSON file with arguments of `UNet2DModel`, instead of the preset.
        learn_variance: Whether half of the output channels hold the variance (Nichol & Dhariwal 2021, eq. 15).
        overrides: Further arguments of `UNet2DModel`, which take precedence.

    Returns:
        The network in float32.

    Raises:
        UserError: If the file cannot be used or names another size, or the resolution does not fit the network.
    """
    arguments = PRESETS[preset] if model_config is None else _read_model_config(model_config)
    if arguments.get("sample_size", resolution) not in (resolution, [resolution] * 2, None):
        raise UserError(
            f"model_config {model_config} has a sample_size of {arguments['sample_size']} and resolution is "
            f"{resolution}; give them the same number, or take sample_size out of the file"
        )
    arguments = {**arguments, "sample_size": resolution, **overrides}
    if learn_variance:
        arguments["out_channels"] = 2 * arguments.get("in_channels", 3)
    try:
        unet = UNet2DModel(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"model_config {model_config} does not describe a UNet2DModel: {error}") from error
    factor = 2 ** (len(unet.config.block_out_channels) - 1)
    if resolution % factor:
        raise UserError(
            f"resolution is {resolution}; this network halves it {len(unet.config.block_out_channels) - 1} times, "
            f"so it must be a multiple of {factor} (the nearest is {max(1, round(resolution / factor)) * factor})"
        )
    expected = unet.config.in_channels * (2 if learn_variance else 1)
    if unet.config.out_channels != expected:
        raise UserError(
            f"model_config {model_config} has {unet.config.out_channels} out_channels; with {unet.config.in_channels} "
            f"in_channels and this variance_type there must be {expected}"
        )
    return unet


def _read_model_config(path: str) -> dict[str, Any]:
    try:
        arguments = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"model_config {path} cannot be read as JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise UserError(f"model_config {path} holds a {type(arguments).__name__}; it must hold an object")
    return {name: value for name, value in arguments.items() if not name.startswith("_")}
