"""UNets by name, or from a file of arguments. This is the only module that knows how a network is built."""

import json
from typing import Any

from accelerate.utils.memory import should_reduce_batch_size
from diffusers import UNet2DModel

from ddpm_cars.errors import UserError, check_halvings
from ddpm_cars.networks.model_config import read_model_config
from ddpm_cars.networks.trial import explained, step_without_values

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
    preset: str,
    resolution: int,
    model_config: str | None = None,
    *,
    learn_variance: bool = False,
    num_class_embeds: int | None = None,
    num_train_timesteps: int | None = None,
    **overrides: Any,
) -> UNet2DModel:
    """Build a network with fresh weights, drawn from torch's global generator.

    Built from a file on torch's device meta, it also takes a step there, which finds what cannot be trained.

    Args:
        preset: A key of `PRESETS`.
        resolution: Height and width of its images, a multiple of 2 for every level below the first.
        model_config: Path of a JSON file with arguments of `UNet2DModel`, or of the folder of a saved network or
            pipeline, instead of the preset.
        learn_variance: Whether half of the output channels hold the variance (Nichol & Dhariwal 2021, eq. 15).
        num_class_embeds: Number of labels that the network tells apart, with the one of a hidden class; None leaves it
            to the file.
        num_train_timesteps: Number of timesteps T; only a learned embedding of them has to know it.
        overrides: Further arguments of `UNet2DModel`, which take precedence.

    Returns:
        The network in float32.

    Raises:
        UserError: If the file cannot be used or contradicts an argument, or the resolution does not fit the network.
    """
    if model_config is None:
        name, arguments = f"preset {preset}", dict(PRESETS[preset])
    else:
        place, arguments = read_model_config(model_config)
        name = f"model_config {place}"
    if arguments.get("sample_size", resolution) not in (resolution, [resolution] * 2, None):
        raise UserError(
            f"{name} has a sample_size of {json.dumps(arguments['sample_size'])} and resolution is {resolution}; "
            "give them the same number, or take sample_size out of the file"
        )
    arguments |= {"sample_size": resolution, **overrides}
    _fit_channels(name, arguments, learn_variance)
    _fit_labels(name, arguments, num_class_embeds)
    _fit_timesteps(name, arguments, num_train_timesteps)
    try:
        unet = UNet2DModel(**arguments)
        check_halvings(resolution, len(unet.config.block_out_channels) - 1, "this network")
        if model_config is not None and unet.device.type == "meta":
            step_without_values(unet)
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or should_reduce_batch_size(error):
            raise
        # Diffusers and torch raise anything, wherever an argument happens to lead them.
        raise explained(name, arguments, error) from error
    return unet


def _fit_channels(name: str, arguments: dict[str, Any], learn_variance: bool) -> None:
    in_channels = arguments.get("in_channels", 3)
    # Python counts True as a number.
    if type(in_channels) is not int:
        raise UserError(f"{name} has the in_channels {json.dumps(in_channels)}; it must be a whole number")
    expected = in_channels * (2 if learn_variance else 1)
    given = arguments.setdefault("out_channels", expected)
    if given == expected:
        return
    variance_type = "variance_type learned_range" if learn_variance else "a variance_type that is not learned"
    cure = f"out_channels must be {expected}"
    if not learn_variance and given == 2 * in_channels:
        cure += ", or variance_type learned_range"
    raise UserError(f"{name} has {given} out_channels and {in_channels} in_channels; with {variance_type}, {cure}")


def _fit_labels(name: str, arguments: dict[str, Any], num_class_embeds: int | None) -> None:
    if num_class_embeds is None:
        return
    given = arguments.get("num_class_embeds")
    if given not in (None, num_class_embeds):
        raise UserError(
            f"{name} has the num_class_embeds {given}, and the classes of the images, with a hidden class if "
            f"class_dropout_prob is not 0, make {num_class_embeds}; take num_class_embeds out of the file"
        )
    arguments["num_class_embeds"] = num_class_embeds


def _fit_timesteps(name: str, arguments: dict[str, Any], num_train_timesteps: int | None) -> None:
    if num_train_timesteps is None or arguments.get("time_embedding_type") != "learned":
        return
    if arguments.get("num_train_timesteps") is None:
        arguments["num_train_timesteps"] = num_train_timesteps
    given = arguments["num_train_timesteps"]
    if isinstance(given, int) and given < num_train_timesteps:
        raise UserError(
            f"{name} has a learned embedding of {given} timesteps and the run has num_train_timesteps "
            f"{num_train_timesteps}; take that of the file out of it, or give num_train_timesteps {given}"
        )
