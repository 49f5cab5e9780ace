"""Settings of the images that a command reads."""

import math
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from PIL import ImageColor

from ddpm_cars.config.fields import Settings, setting
from ddpm_cars.errors import UserError

Resize = Literal["squash", "crop", "pad"]


@dataclass(frozen=True, kw_only=True)
class PicturesConfig(Settings):
    """Which images are read, and how they become squares."""

    group: ClassVar[str] = "images"

    train_data_dir: str | None = setting(None, may_change=True, path=True, from_run=True, group="most used")
    """Folder of images, including its subfolders. Folders named train/ and test/ inside it are its splits; see
    split_folders."""
    dataset_name: str | None = setting(None, may_change=True, path=True, from_run=True, group="most used")
    """Dataset on the Hub, or the folder of a local dataset. Give it instead of train_data_dir."""
    dataset_config_name: str | None = setting(None, may_change=False, from_run=True)
    """Configuration of dataset_name, if it has several."""
    image_column: str = setting("image", may_change=False, from_run=True)
    """Column of the dataset that holds the images."""
    split: str | None = setting(None, may_change=False, from_run=True)
    """Split to use, in the notation of `datasets` ("train", "train+test", "train[:90%]"). If unset, all of them."""
    split_folders: bool | None = setting(None, may_change=True, from_run=True)
    """Whether folders with names such as train, val or test-2 are splits: true leaves out the images beside them,
    false makes all images one set, of train_data_dir only. If unset, they are splits, and images beside them are an
    error."""
    cache_dir: str | None = setting(None, may_change=True, private=True, from_run=True, group="machine")
    """Folder that keeps decoded images between runs. If unset, the cache of `datasets`."""
    resize: Resize = setting("squash", may_change=False, from_run=True, label="Made square by")
    """How an image becomes a square: squash ignores its aspect ratio, crop keeps its centre, pad adds borders."""
    background: str = setting("white", may_change=False, from_run=True)
    """Colour of borders and of what is behind transparent images, by name or as #rrggbb."""
    value_range: tuple[float, float] | None = setting(
        None, may_change=False, from_run=True, label="Values of black, white"
    )
    """The two values that become black and white, in the units of the files, such as 0 4095 for 12 bits in files of
    16. Values outside are clipped. If unset, all that 8 or 16 bits allow; floating-point, negative and 32-bit numbers
    need it."""
    max_bad_images_fraction: float = setting(0.01, may_change=True, from_run=True, minimum=0, below=1)
    """Largest fraction of images that may fail to decode. Such images are left out and reported; nothing runs if
    there are more."""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            ImageColor.getrgb(self.background)
        except ValueError as error:
            raise UserError(f"background is {self.background}; give a colour such as black or #8090a0") from error
        self._check_value_range()
        if (self.train_data_dir is None) == (self.dataset_name is None):
            raise UserError("give the images with exactly one of train_data_dir (a folder) and dataset_name")
        if self.dataset_name is not None and self.split_folders is False:
            raise UserError(
                "split_folders is False, which goes with train_data_dir; with dataset_name only true does, which "
                "leaves out files beside the splits"
            )
        if self.train_data_dir is not None:
            for name, unset in (("dataset_config_name", None), ("image_column", "image")):
                value = getattr(self, name, unset)
                if value != unset:
                    raise UserError(f"{name} is {value}; it goes with dataset_name, not with train_data_dir")

    def _check_value_range(self) -> None:
        values = self.value_range
        if values is None:
            return
        if len(values) != 2 or not all(map(math.isfinite, [*values, values[1] - values[0]])) or values[0] >= values[1]:
            given = " ".join(f"{value:g}" for value in values)
            raise UserError(f"value_range is {given}; give two numbers, the lower one first, such as 0 4095")


@dataclass(frozen=True, kw_only=True)
class ImageConfig(PicturesConfig):
    """Images of one size."""

    group: ClassVar[str] = "images"

    resolution: int = setting(64, may_change=False, minimum=8, group="most used")
    """Height and width in pixels of every image after resizing."""


@dataclass(frozen=True, kw_only=True)
class PicturesOfRunConfig(PicturesConfig):
    """Images to measure a model with. What the command does not say is taken from the model's run."""

    group: ClassVar[str] = "images"

    resize: Resize | None = None  # type: ignore[assignment]
    """How an image becomes a square: squash, crop or pad. If unset, as config.yaml says, or squash without one."""
    background: str | None = None  # type: ignore[assignment]
    """Colour of borders and of what is behind transparent images. If unset, as config.yaml says, or white without
    one."""
    value_range: tuple[float, float] | None = None
    """The two values that become black and white, in the units of the files. If unset, as config.yaml says, or all
    that 8 or 16 bits allow without one."""
    validation_split: str | None = None
    """Split that the model was not trained on. If split is unset, it is left out of the other images. An evaluation
    measures bits per dimension on it and uses it to recognise copies. If unset, the one in config.yaml, if the images
    are those of the run."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        # Once the run has filled in what is unset, everything is checked.
        is_named = self.train_data_dir is not None or self.dataset_name is not None
        if is_named and self.background is not None:
            super().__post_init__()

    def at_resolution(self, resolution: int) -> ImageConfig:
        """Return how the images are loaded for a model of this height and width in pixels."""
        return ImageConfig(**{f.name: getattr(self, f.name) for f in fields(PicturesConfig)}, resolution=resolution)
