"""From the bytes of an image to the pixels of a square."""

import os
import threading
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageOps, UnidentifiedImageError

from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.errors import UserError

_OPENING = threading.Lock()
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """A file that gives no image; the message is the reason, without the name of the file."""


def decode_image(source: str | os.PathLike | bytes, mode: str = "RGB", background: str = "white") -> Image.Image:
    """Decode one image as a viewer would show it.

    EXIF rotation is applied, transparency is laid on `background`, 16-bit grey is rounded to 8 bits, and an animation
    gives its first frame. The format is what the file contains, whatever its name. The mode is "RGB" or "L". Raises
    OSError if the file cannot be read, and ImageError if it cannot be decoded or has more than
    `PIL.Image.MAX_IMAGE_PIXELS` pixels, which are then not decoded.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    if not data:
        raise ImageError("the file is empty")
    try:
        with _open(data) as image:
            width, height = image.size
            if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
                raise ImageError(
                    f"{width} x {height} pixels, more than PIL.Image.MAX_IMAGE_PIXELS, {Image.MAX_IMAGE_PIXELS}"
                )
            image.load()
            image = _turn_upright(image)
        return _flatten(image, background).convert(mode)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not an image in a format that Pillow reads, or one of zero size") from error
    except Exception as error:
        # On damaged files Pillow's readers raise whatever their parsing runs into.
        raise ImageError(str(error) or type(error).__name__) from error


def _open(data: bytes) -> Image.Image:
    # Pillow checks the number of pixels before it can be asked for it, and only warns up to twice the limit.
    with _OPENING:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(BytesIO(data))
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _turn_upright(image: Image.Image) -> Image.Image:
    # `ImageOps.exif_transpose` also writes the EXIF anew, which fails on much that can be read.
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        # Damaged EXIF does not damage the pixels.
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _flatten(image: Image.Image, background: str) -> Image.Image:
    """Return the image in mode "RGB", without transparency."""
    if image.mode == "F":
        raise ImageError("its pixels are floating-point numbers, and nothing says which of them is white")
    if image.mode.startswith("I"):
        image = _to_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        behind = Image.new("RGB", image.size, _rgb(background)).convert("RGBA")
        image = Image.alpha_composite(behind, image)
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int32)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(f"its pixels run from {values.min()} to {values.max()}, not from 0 to 65535")
    grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _rgb(colour: str) -> tuple[int, ...]:
    return ImageColor.getrgb(colour)[:3]


def _squash(image: Image.Image, resolution: int, background: str) -> Image.Image:
    return image.resize((resolution, resolution), Image.Resampling.BICUBIC)


def _crop(image: Image.Image, resolution: int, background: str) -> Image.Image:
    return ImageOps.fit(image, (resolution, resolution), Image.Resampling.BICUBIC)


def _pad(image: Image.Image, resolution: int, background: str) -> Image.Image:
    # Unlike in `ImageOps.pad`, the thinnest strip stays visible.
    width, height = (max(1, round(side / max(image.size) * resolution)) for side in image.size)
    square = Image.new("RGB", (resolution, resolution), _rgb(background)).convert(image.mode)
    left, top = round((resolution - width) / 2), round((resolution - height) / 2)
    square.paste(image.resize((width, height), Image.Resampling.BICUBIC), (left, top))
    return square


# The modes of `config.pictures.Resize`.
_RESIZE = {"squash": _squash, "crop": _crop, "pad": _pad}


def resize_image(image: Image.Image, resolution: int, resize: str, background: str = "white") -> Image.Image:
    """Bring an image, "RGB" or "L", to `resolution` x `resolution` pixels with an antialiasing filter.

    `ImageConfig.resize` names the ways; "pad" shows the background at the borders. Raises ValueError for another way.
    """
    if resize not in _RESIZE:
        raise ValueError(f"resize is {resize!r}; give one of {', '.join(_RESIZE)}")
    return _RESIZE[resize](image, resolution, background)


def image_mode(num_channels: int) -> str:
    """Return the mode of Pillow for images of so many channels. Raises UserError if there is none."""
    if num_channels not in (1, 3):
        raise UserError(f"the network takes {num_channels} channels; images can be given to one with 1 or 3")
    return "RGB" if num_channels == 3 else "L"


def decode_square(data: bytes, mode: str, config: ImageConfig) -> Image.Image:
    """Decode an image and bring it to size as the settings say; see `decode_image` and `resize_image`."""
    image = decode_image(data, mode, config.background)
    return resize_image(image, config.resolution, config.resize, config.background)
