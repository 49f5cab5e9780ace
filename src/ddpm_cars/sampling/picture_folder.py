"""A folder of images that were drawn with one model and one set of settings, which its sampling.json holds."""

import json
import os
import re
from pathlib import Path
from typing import Any

from ddpm_cars.errors import UserError
from ddpm_cars.runtime.files import write_text

_SETTINGS = "sampling.json"
GRID_NAME = "grid.png"
STRIP_NAME = "denoising.png"
# The settings of folders of earlier versions, which do not name them.
_UNSAID = {"mixed_precision": "no"}
_PICTURE = re.compile(r"(\d{5}|[1-9]\d{5,})\.png")
# A process that was killed leaves this of an image that it was writing.
_LEFTOVER = re.compile(rf"\.{_PICTURE.pattern}\.tmp")
_CURE = "choose another output_dir, or pass --overwrite_output_dir to start again"


def picture_path(folder: Path, i: int) -> Path:
    """Return the path of image i: 00000.png, ... , 99999.png, 100000.png, ..."""
    return folder / f"{i:05d}.png"


def unfinished_batches(found: set[int], num_images: int, batch_size: int, whole: bool = False) -> list[range]:
    """Return the batches of which an image is not among the found ones.

    The batches do not depend on what is there, so an image is drawn with the same others before and after a break.
    With `whole`, the last one is filled up with images that nobody wants, for a network compiled for one shape.
    """
    every = [range(start, start + batch_size) for start in range(0, num_images, batch_size)]
    wanted = [range(batch.start, min(batch.stop, num_images)) for batch in every]
    pairs = zip(every, wanted, strict=True)
    return [batch if whole else part for batch, part in pairs if not found.issuperset(part)]


def open_folder(folder: Path, settings: dict[str, Any], overwrite: bool = False) -> set[int]:
    """Make a folder ready for more images, and return the numbers of those in it; an empty file does not count.

    With `overwrite`, images that lie there with a sampling.json are deleted, whatever their settings (JSON values).
    Raises UserError if the images there have other settings, or no sampling.json and may be anybody's.
    """
    path = folder / _SETTINGS
    names = _names_in(folder)
    pictures = {name for name in names if _PICTURE.fullmatch(name)}
    if overwrite and path.exists():
        # The settings come last: until then they are true of the images that are left.
        for name in (*pictures, GRID_NAME, STRIP_NAME, _SETTINGS):
            (folder / name).unlink(missing_ok=True)
        pictures = set()
    elif path.exists():
        _check_same(path, settings)
    elif pictures:
        # Photographs of others may have such names.
        raise UserError(
            f"output_dir {folder} has images such as {min(pictures)}, but no {_SETTINGS}; choose another output_dir"
        )
    for name in names:
        if _LEFTOVER.fullmatch(name):
            (folder / name).unlink()
    if not path.exists():
        write_text(path, json.dumps(settings, indent=1) + "\n")
    return {int(name.removesuffix(".png")) for name in pictures if (folder / name).stat().st_size > 0}


def count_images(folder: Path) -> int:
    """Return the number of images in a folder."""
    return sum(_PICTURE.fullmatch(name) is not None for name in _names_in(folder))


def _names_in(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _check_same(path: Path, settings: dict[str, Any]) -> None:
    try:
        known = _UNSAID | dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); {_CURE}") from error
    changed = [name for name, value in settings.items() if known.get(name) != value]
    # A model that has only moved is the same.
    if changed and changed != ["model"]:
        listed = ", ".join(f"{name} {known.get(name)} (now {settings[name]})" for name in changed)
        raise UserError(f"{path} belongs to images with {listed}; go back to that, {_CURE}")
