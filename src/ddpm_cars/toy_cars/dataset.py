"""The toy data set: many toy cars in a folder, split into train and test."""

import json
import math
import os
from collections.abc import Collection
from io import BytesIO
from pathlib import Path

from PIL.PngImagePlugin import PngInfo

from ddpm_cars.runtime.console import progress
from ddpm_cars.toy_cars.painting import MIN_SIDE, RENDERER_VERSION, draw_car

_MARKER_NAME = "toy_cars.json"
# Every written file holds this text, by which images of other people are recognised and not overwritten.
_SIGNATURE = "ddpm_cars toy cars"


def write_toy_cars(
    output_dir: str | os.PathLike[str],
    num_train_images: int = 2000,
    num_test_images: int = 200,
    resolution: int = 64,
    seed: int = 0,
) -> Path:
    """Write the toy data set, `train/00000.png ...` and `test/00000.png ...`; no image is in both.

    A folder that already holds exactly this set is left as it is, and an interrupted write is completed.

    Args:
        output_dir: Folder to fill; made if it is missing.
        num_train_images: Number of images in `train`, from 0 to 100000.
        num_test_images: Number of images in `test`, from 0 to 100000.
        resolution: Height and width of the images in pixels, from 8.
        seed: Picks the set, any integer from 0; different seeds share no scene.

    Returns:
        The folder.

    Raises:
        ValueError: If an argument is out of its range.
        FileExistsError: If the folder holds anything but this set, or part of it.
    """
    for name, value, low, high in (
        ("num_train_images", num_train_images, 0, 100_000),
        ("num_test_images", num_test_images, 0, 100_000),
        ("resolution", resolution, MIN_SIDE, math.inf),
        ("seed", seed, 0, math.inf),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}; write_toy_cars needs a value from {low} to {high}")
    folder = Path(output_dir)
    contents = {
        "renderer_version": RENDERER_VERSION,
        "num_train_images": num_train_images,
        "num_test_images": num_test_images,
        "resolution": resolution,
        "seed": seed,
    }
    # Even scenes are for training and odd ones for testing. Every seed has a block of scenes of its own.
    scene_seeds = {
        f"{split}/{index:05d}.png": (seed << 32) + 2 * index + odd
        for odd, (split, count) in enumerate((("train", num_train_images), ("test", num_test_images)))
        for index in range(count)
    }
    if _is_complete(folder, contents, scene_seeds):
        return folder
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True, exist_ok=True)
    signature = PngInfo()
    signature.add_text("Software", _SIGNATURE)
    for name, scene_seed in progress(scene_seeds.items(), desc="drawing toy cars", unit="image"):
        png = BytesIO()
        draw_car(scene_seed, resolution).save(png, "PNG", pnginfo=signature)
        _replace_file(folder / name, png.getvalue())
    _replace_file(folder / _MARKER_NAME, (json.dumps(contents, indent=2) + "\n").encode(), durable=True)
    return folder


def _is_complete(folder: Path, contents: dict[str, int], names: Collection[str]) -> bool:
    """Return whether the folder holds the whole set; raise an error if it holds anything but images of this set."""
    cure = "delete the folder or choose another one"
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; choose a folder for the toy cars")
    marker = folder / _MARKER_NAME
    marked = marker.exists()
    if marked:
        try:
            found = json.loads(marker.read_text())
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise FileExistsError(f"{folder} holds other toy cars, and {marker} cannot be read; {cure}")
        if found != contents:
            other = [
                f"{name} {found.get(name)}, not {new}" for name, new in contents.items() if found.get(name) != new
            ]
            raise FileExistsError(f"{folder} holds other toy cars ({'; '.join(other)}); {cure}")
    missing = set(names)
    for path in sorted(folder.rglob("*")):
        # Unfinished files do not count: another process may be writing the same set right now.
        if path.is_dir() or path == marker or path.match(".*.tmp"):
            continue
        name = path.relative_to(folder).as_posix()
        if name not in missing or _SIGNATURE.encode() not in path.read_bytes():
            raise FileExistsError(f"{folder} holds {name}, which is not one of these toy cars; {cure}")
        missing.remove(name)
    return marked and not missing


def _replace_file(path: Path, content: bytes, durable: bool = False) -> None:
    """Write a file under a name that only this process uses, and move it into place when it is complete."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
