"""TODO src/ddpm_cars/config/pictures.py."""

from dataclasses import dataclass, fields
from typing import Literal

from PIL import ImageColor

from ddpm_cars.config.fields import at_least, fit_types, in_unit_interval
from ddpm_cars.errors import UserError

Resize = Literal["squash", "crop", "pad"]


@dataclass(frozen=True, kw_only=True)
class PicturesConfig:
    """Which images, and how they become squares."""

    train_data_dir: str | None = None
    """Folder of images, subfolders included; train/ and test/ inside it are its splits."""
    dataset_name: str | None = None
    """Dataset on the Hub, or a local dataset folder, instead of train_data_dir."""
    dataset_config_name: str | None = None
    """Configuration of dataset_name, where it has several."""
    image_column: str = "image"
    """Column of the dataset that holds the images."""
    split: str | None = None
    """Split to use, in the notation of `datasets` ("train", "train+test", "train[:90%]"); null joins every split."""
    cache_dir: str | None = None
    """Where decoded images are kept between runs; null is the cache of `datasets`."""
    resize: Resize = "squash"
    """How: squash ignores the aspect ratio, crop keeps the centre, pad adds borders."""
    background: str = "white"
    """Colour behind transparent images and of borders, by name or as #rrggbb."""
    max_bad_images_fraction: float = 0.01
    """Images that cannot be decoded are left out and reported; if they are more than this share, nothing runs."""

    def __post_init__(self) -> None:
        fit_types(self)
        in_unit_interval(self, "max_bad_images_fraction")
        try:
            ImageColor.getrgb(self.background)
        except ValueError as error:
            raise UserError(f"background is {self.background}; give a colour such as black or #8090a0") from error
        if (self.train_data_dir is None) == (self.dataset_name is None):
            raise UserError("give the images with exactly one of train_data_dir (a folder) and dataset_name")
        if self.train_data_dir is not None:
            for name, nothing in (("dataset_config_name", None), ("image_column", "image"), ("label_column", "label")):
                value = getattr(self, name, nothing)
                if value != nothing:
                    raise UserError(f"{name} is {value}; it goes with dataset_name, not with train_data_dir")


@dataclass(frozen=True, kw_only=True)
class ImageConfig(PicturesConfig):
    """Images of one size."""

    resolution: int = 64
    """Height and width in pixels that every image is brought to."""

    def __post_init__(self) -> None:
        PicturesConfig.__post_init__(self)
        at_least(self, 8, "resolution")


@dataclass(frozen=True, kw_only=True)
class PicturesOfRunConfig(PicturesConfig):
    """Which images to measure a model with, and how they become squares where the command does not say it."""

    resize: Resize | None = None  # type: ignore[assignment]
    """How images become squares: squash, crop or pad; null is as config.yaml says, and squash without one."""
    background: str | None = None  # type: ignore[assignment]
    """Colour behind transparent images and of borders; null is as config.yaml says, and white without one."""
    validation_split: str | None = None
    """Split that the model was not trained on; null is that of config.yaml, if the images are from there. It is left
    out where split is null; an evaluation measures bits per dimension on it, and tells by it what a copy is."""

    def __post_init__(self) -> None:
        fit_types(self)
        # What is null is taken from the run, and then all of it is checked.
        is_named = self.train_data_dir is not None or self.dataset_name is not None
        if is_named and self.background is not None:
            PicturesConfig.__post_init__(self)

    def at_resolution(self, resolution: int) -> ImageConfig:
        """Return how the images are loaded for a model of this height and width."""
        return ImageConfig(**{f.name: getattr(self, f.name) for f in fields(PicturesConfig)}, resolution=resolution)
