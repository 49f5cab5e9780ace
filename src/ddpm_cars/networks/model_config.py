"""The file that describes a network: found, read, and checked for what Diffusers does not say or says too late."""

import difflib
import json
import math
from inspect import signature
from pathlib import Path
from typing import Any

from diffusers import UNet2DModel

from ddpm_cars.errors import UserError

CONFIG_PLACES = ("config.json", "unet/config.json")
"""Where the config of a saved network is, from its own folder and from that of its pipeline."""

# Diffusers takes another word for one of these in some places, and leaves something out of the network without a word.
_CHOICES: dict[str, tuple[str | None, ...]] = {
    "time_embedding_type": ("positional", "learned", "fourier"),
    "class_embed_type": (None, "timestep"),
    "mid_block_type": ("UNetMidBlock2D", None),
    "downsample_type": ("conv", "resnet"),
    "upsample_type": ("conv", "resnet"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
}


def read_model_config(path: str) -> tuple[str, dict[str, Any]]:
    """Read the arguments of a `UNet2DModel` from a file, or from the folder of a saved network or pipeline.

    What Diffusers notes in a saved config about itself, under names that begin with "_", is left out; so are the
    arguments that it notes to have been defaults.

    Args:
        path: The file or folder.

    Returns:
        The file, and the arguments.

    Raises:
        UserError: If there is no such file, it holds no JSON object, it describes another class, or an argument is
            unknown or has a value that cannot be.
    """
    place = Path(path)
    if place.is_dir():
        found = [place / name for name in CONFIG_PLACES if (place / name).is_file()]
        if not found:
            inside = [*sorted(place.glob(f"*/{CONFIG_PLACES[1]}")), *sorted(place.glob(f"*/*/{CONFIG_PLACES[1]}"))]
            hint = f"; did you mean {inside[-1].parents[1]}?" if inside else ""
            raise UserError(f"model_config {path} is a folder without {' or '.join(CONFIG_PLACES)}{hint}")
        place = found[0]
    try:
        # Some editors put a mark of the encoding first.
        text = place.read_text(encoding="utf-8-sig")
        arguments = json.loads(text)
    except json.JSONDecodeError as error:
        is_comma = text[: error.pos].rstrip().endswith(",") and text[error.pos : error.pos + 1] in ("}", "]")
        said = f"line {error.lineno} closes after a comma, which must go" if is_comma else str(error)
        raise UserError(f"model_config {place} cannot be read as JSON: {said}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"model_config {place} cannot be read as JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise UserError(f"model_config {place} holds a {type(arguments).__name__}; it must hold an object")
    described = arguments.get("_class_name", UNet2DModel.__name__)
    if described != UNet2DModel.__name__:
        cure = "give unet/config.json" if (place.parent / CONFIG_PLACES[1]).is_file() else "only that can be trained"
        raise UserError(f"model_config {place} describes a {described} and no {UNet2DModel.__name__}; {cure}")
    defaults = arguments.get("_use_default_values")
    unset = {*defaults} if isinstance(defaults, list) else set()
    arguments = {k: v for k, v in arguments.items() if not k.startswith("_") and k not in unset}
    _check(str(place), arguments)
    return str(place), arguments


def _check(place: str, arguments: dict[str, Any]) -> None:
    parameters = signature(UNet2DModel.__init__).parameters
    known = [name for name in parameters if name != "self"]
    for name in arguments:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            cure = f"did you mean {close[0]}?" if close else "take it out of the file"
            raise UserError(f"model_config {place} does not describe a UNet2DModel: it has {name}; {cure}")
        if isinstance(parameters[name].default, bool) and arguments[name] not in (True, False):
            # Python takes any text for true.
            raise UserError(
                f"model_config {place} has the {name} {json.dumps(arguments[name])}; it must be true or false"
            )
        if isinstance(arguments[name], float) and not math.isfinite(arguments[name]):
            raise UserError(f"model_config {place} has the {name} {arguments[name]}; it must be a finite number")
    for name, choices in _CHOICES.items():
        if name in arguments and arguments[name] not in choices:
            words = ", ".join(map(json.dumps, choices))
            raise UserError(
                f"model_config {place} has the {name} {json.dumps(arguments[name])}; it must be one of {words}"
            )
