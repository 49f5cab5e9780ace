"""From the colours of an image, as its profile says what they are, to those of sRGB."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms, features

# Browsers take this intent, also where the profile asks for another one. Of profiles that are a matrix and curves, as
# those of cameras and displays are, all intents but the absolute one are the same.
_INTENT = ImageCms.Intent.PERCEPTUAL
# The profiles that are called sRGB differ from one another by rounding; a copy of sRGB is not worth a conversion.
_SAME_LEVELS = 2
# The profile of a device that shows less than half of the way from black to white is damaged.
_MIN_CONTRAST = 128
_NO_LITTLECMS = "this build of Pillow has no LittleCMS; install Pillow from PyPI"
_DAMAGED = "it is damaged"
_COLOUR_SPACES = {"RGB": ("RGB",), "L": ("GRAY", "RGB"), "CMYK": ("CMYK",)}


@dataclass(frozen=True)
class Conversion:
    """What a profile does to the images of a mode."""

    apply: Callable[[Image.Image], Image.Image] | None  # Returns an image in sRGB; None if nothing is to be done.
    fault: str = ""  # Why the profile cannot be used.


def can_convert() -> bool:
    """Return whether this build of Pillow can convert colours."""
    return bool(features.check("littlecms2"))


def to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, Conversion | None]:
    """Convert an image without transparency to sRGB.

    Args:
        image: An image in mode "L", "RGB" or "CMYK".
        profile: Its ICC profile, None if it has none.

    Returns:
        The image, which is in mode "RGB" or "L" unless it is as it was, and what the profile does, None without one.
        If the profile cannot be used, the image is as it was.
    """
    conversion = None if profile is None else _conversion(profile, image.mode)
    if conversion is None or conversion.apply is None:
        return image, conversion
    return conversion.apply(image), conversion


# Images of a set share a few profiles. A transform holds nothing that changes, so threads share it.
@lru_cache(maxsize=16)
def _conversion(profile: bytes, mode: str) -> Conversion:
    """Return what a profile does to images of a mode."""
    if not profile:
        return Conversion(None, _DAMAGED)
    if not can_convert():
        return Conversion(None, _NO_LITTLECMS)
    try:
        try:
            opened = ImageCms.ImageCmsProfile(BytesIO(profile))
        except OSError:
            return Conversion(None, _DAMAGED)
        space = opened.profile.xcolor_space.strip()
        if space not in _COLOUR_SPACES[mode]:
            return Conversion(None, f"it is one for {space}, and the pixels are {mode}")
        return Conversion(_of_grey(opened) if space == "GRAY" else _of_colours(opened, space))
    except Exception as error:
        return Conversion(None, str(error))


def _of_grey(profile: ImageCms.ImageCmsProfile) -> Callable[[Image.Image], Image.Image] | None:
    # The library interpolates the curve of grey too coarsely in the dark, except if it may not hurry.
    transform = _transform(profile, "L", ImageCms.Flags.NOOPTIMIZE)
    levels = np.arange(256, dtype=np.uint8)
    # Grey is as much red as green and blue.
    shown = np.asarray(transform.apply(Image.fromarray(levels[None])))[0, :, 1]
    return None if _are_same(shown, levels) else lambda image: image.point(shown.tolist())


def _of_colours(profile: ImageCms.ImageCmsProfile, space: str) -> Callable[[Image.Image], Image.Image] | None:
    transform = _transform(profile, space)
    if space == "RGB":
        # Every level of grey, and a grid of colours with the corners.
        grey = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(-1, 3)
        levels = np.linspace(0, 255, 16).astype(np.uint8)
        grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
        colours = np.concatenate([grey, grid])
        if _are_same(np.asarray(transform.apply(Image.fromarray(colours[None])))[0], colours):
            return None
    # A grey image often has the profile of a colour image, and is shown by browsers as it says.
    return lambda image: transform.apply(image.convert(space))


def _transform(
    profile: ImageCms.ImageCmsProfile, mode: str, flags: ImageCms.Flags = ImageCms.Flags.NONE
) -> ImageCms.ImageCmsTransform:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    transform = ImageCms.ImageCmsTransform(profile, srgb, mode, "RGB", _INTENT, flags=flags)
    # 255 of every ink is black, and 255 of every light is white.
    dark, light = (0, 255) if mode != "CMYK" else (255, 0)
    ends = [Image.frombytes(mode, (1, 1), bytes([level] * len(mode))) for level in (dark, light)]
    black, white = (np.asarray(transform.apply(end), int) for end in ends)
    if (white - black).mean() < _MIN_CONTRAST:
        raise ValueError(f"it shows black as {black.ravel().tolist()} and white as {white.ravel().tolist()}")
    return transform


def _are_same(shown: np.ndarray, stored: np.ndarray) -> bool:
    return int(np.abs(shown.astype(int) - stored).max()) <= _SAME_LEVELS
