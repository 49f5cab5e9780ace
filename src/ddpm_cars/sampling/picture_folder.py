"""TODO src/ddpm_cars/sampling/picture_folder.py."""

import json
import os
import re
from pathlib import Path
from typing import Any

from ddpm_cars.errors import UserError
from ddpm_cars.runtime.files import write_text

_SETTINGS = "sampling.json"

_GRID = "grid.png"

_STRIP = "denoising.png"

# What folders were drawn with that do not say so.
_UNSAID = {"mixed_precision": "no"}

_PICTURE = re.compile(r"(\d{5}|[1-9]\d{5,})\.png")

# What a process that was killed leaves of an image that it was writing.
_LEFTOVER = re.compile(rf"\.{_PICTURE.pattern}\.tmp")

_CURE = "choose another output_dir, or pass --overwrite_output_dir to start again"


def picture_path(folder: Path, i: int) -> Path:
    """Return the path of image i: 00000.png, ... , 99999.png, 100000.png, ..."""
    return folder / f"{i:05d}.png"


def unfinished_batches(found: set[int], num_images: int, batch_size: int, whole: bool = False) -> list[range]:
    """Return the batches of which an image is missing.

    They do not depend on what is there: an image is drawn with the same others before and after a break.

    Args:
        found: Numbers of the images that are there.
        num_images: How many are wanted, 1 or more.
        batch_size: How many at a time, 1 or more.
        whole: Fill the last batch up, with images beyond those that are wanted, for a network that is compiled for
            one shape.
    """
    every = [range(start, start + batch_size) for start in range(0, num_images, batch_size)]
    wanted = [range(batch.start, min(batch.stop, num_images)) for batch in every]
    pairs = zip(every, wanted, strict=True)
    return [batch if whole else part for batch, part in pairs if not found.issuperset(part)]


def open_folder(folder: Path, settings: dict[str, Any], overwrite: bool = False) -> set[int]:
    """Make a folder ready for more images, and see that those in it were drawn with the same settings.

    Args:
        folder: It exists; sampling.json in it says what its images are.
        settings: What `settings_of` returns.
        overwrite: Delete what this command has written there before, which without sampling.json is nothing.

    Returns:
        The numbers of the images that are there; an empty file is none.

    Raises:
        UserError: If the folder has images of other settings, or without sampling.json, which are of others.
    """
    path = folder / _SETTINGS
    names = _names_in(folder)
    pictures = {name for name in names if _PICTURE.fullmatch(name)}
    if overwrite and path.exists():
        # sampling.json last: until then it is true of what is left.
        for name in (*pictures, _GRID, _STRIP, _SETTINGS):
            (folder / name).unlink(missing_ok=True)
        pictures = set()
    elif path.exists():
        _check_same(path, settings)
    elif pictures:
        # Somebody's photographs may well have such names.
        raise UserError(
            f"output_dir {folder} has images such as {min(pictures)}, but no {_SETTINGS}; choose another output_dir"
        )
    for name in names:
        if _LEFTOVER.fullmatch(name):
            (folder / name).unlink()
    if not path.exists():
        write_text(path, json.dumps(settings, indent=1) + "\n")
    return {int(name.removesuffix(".png")) for name in pictures if (folder / name).stat().st_size > 0}


def _names_in(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _check_same(path: Path, settings: dict[str, Any]) -> None:
    try:
        known = _UNSAID | dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); {_CURE}") from error
    changed = [name for name, value in settings.items() if known.get(name) != value]
    # Weights that have only moved are the same model.
    if changed and changed != ["model"]:
        listed = ", ".join(f"{name} {known.get(name)} (now {settings[name]})" for name in changed)
        raise UserError(f"{path} belongs to images with {listed}; go back to that, {_CURE}")
