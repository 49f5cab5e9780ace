"""Folders of small images, and loading them at 8x8 pixels."""

from pathlib import Path

from PIL import Image

from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.data.pictures import Pictures, load_pictures

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (60, 60, 60)


def save(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10), colour).save(path)


def make_pictures(folder: Path) -> Path:
    """Write three images in two splits; joined they are blue, red and grey."""
    save(folder / "train" / "a.png", BLUE)
    save(folder / "train" / "sub folder" / "ü b.PNG", RED)
    save(folder / "test" / "c.png", GREY)
    return folder


def load_small(tmp_path: Path, num_channels: int = 3, **changes: object) -> Pictures:
    """Load tmp_path/pictures; fields of ImageConfig and keywords of `load_pictures` change that."""
    keywords = {"label_column", "excluded_split", "report_path"}
    options = {name: changes.pop(name) for name in keywords & set(changes)}
    paths = {"train_data_dir": str(tmp_path / "pictures"), "cache_dir": str(tmp_path / "cache")}
    return load_pictures(ImageConfig(**{**paths, "resolution": 8, **changes}), num_channels, **options)


def cache_times(tmp_path: Path) -> dict[str, int]:
    """Return when every file of the cache was written, by its path."""
    cache = tmp_path / "cache" / "ddpm_cars"
    return {str(path.relative_to(cache)): path.stat().st_mtime_ns for path in sorted(cache.rglob("[!.]*.*"))}


def colours(pictures: Pictures) -> list[tuple[int, ...]]:
    return [tuple(image[4, 4].tolist()) for image in pictures.images]
