"""From the colours of an image, as its profile says what they are, to those of sRGB."""

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
_NO_LITTLECMS = "this build of Pillow has no LittleCMS; install Pillow from PyPI"
_COLOUR_SPACES = {"RGB": ("RGB",), "L": ("GRAY", "RGB"), "CMYK": ("CMYK",)}


@dataclass(frozen=True)
class Conversion:
    """What a profile does to the images of a mode."""

    mode: str  # The mode that the image has to have.
    transform: ImageCms.ImageCmsTransform | None  # To "RGB" in sRGB; None if nothing is to be done.
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
        The image in mode "RGB", or in its own where nothing is to be done, and what the profile does, None without
        one. If the profile cannot be used, the image is unchanged.
    """
    if profile is None:
        return image, None
    conversion = _conversion(profile, image.mode)
    if conversion.transform is None:
        return image, conversion
    return conversion.transform.apply(image.convert(conversion.mode)), conversion


# Images of a set share a few profiles. A transform holds nothing that changes, so threads share it.
@lru_cache(maxsize=16)
def _conversion(profile: bytes, mode: str) -> Conversion:
    """Return what a profile does to images of a mode."""
    if not profile:
        return Conversion(mode, None, "its colour profile is damaged")
    if not can_convert():
        return Conversion(mode, None, f"its colour profile cannot be used, because {_NO_LITTLECMS}")
    try:
        opened = ImageCms.ImageCmsProfile(BytesIO(profile))
        space = opened.profile.xcolor_space.strip()
        if space not in _COLOUR_SPACES.get(mode, ()):
            return Conversion(mode, None, f"its colour profile is one for {space}, and its pixels are {mode}")
        # A grey image often has the profile of a colour image, as which browsers show it.
        mode = "L" if space == "GRAY" else space
        transform = _transform(opened, mode)
    except Exception as error:
        return Conversion(mode, None, f"its colour profile cannot be used: {error}")
    return Conversion(mode, None if _is_srgb(transform, mode) else transform)


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Return whether a transform leaves colours as they are, whatever the name of its profile."""
    if mode == "CMYK":
        return False
    # Every level of grey, and a grid of colours with the corners.
    grey = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(-1, 3)
    levels = np.linspace(0, 255, 16).astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    colours = grey if mode == "L" else np.concatenate([grey, grid])
    shown = np.asarray(transform.apply(Image.fromarray(colours[None]).convert(mode)))[0]
    return int(np.abs(shown.astype(int) - colours).max()) <= _SAME_LEVELS


def _transform(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    return ImageCms.ImageCmsTransform(profile, srgb, mode, "RGB", _INTENT)
