"""From the bytes of an image to the pixels of a square."""

import os
import threading
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from PIL import ExifTags, Image, ImageColor, ImageOps, UnidentifiedImageError

from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.data.colours import to_srgb
from ddpm_cars.data.findings import Found, ImageError
from ddpm_cars.data.png_text import without_text
from ddpm_cars.data.value_range import Stored, ValueRange, grey_to_8_bits, how_stored, is_grey_of_numbers, stretch
from ddpm_cars.errors import UserError

_OPENING = threading.Lock()
# The further images in such a file are previews, maps of brightness or layers, of which a viewer shows none.
_NO_FRAMES = {"MPO", "PSD"}
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # The last two are of BigTIFF.
_OTHER_TIFF = (
    "Pillow cannot read this TIFF: it is damaged, or its numbers have 64 bits, are floating-point ones of 16 "
    "bits or in colour, or complex ones; save it as 32-bit floats with one channel, or as PNG"
)
_OTHER_PIXELS = "Pillow cannot read pixels that are stored in this way; save it as PNG"
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(
    source: str | os.PathLike | bytes,
    mode: str = "RGB",
    background: str = "white",
    value_range: ValueRange | None = None,
) -> Image.Image:
    """Decode one image as a viewer would show it; see `decode_with_findings`."""
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    return decode_with_findings(data, mode, background, value_range)[0]


def decode_with_findings(
    data: bytes, mode: str = "RGB", background: str = "white", value_range: ValueRange | None = None
) -> tuple[Image.Image, Found]:
    """Decode the bytes of an image as a viewer would show it, and say what was found in it and left out of it.

    EXIF rotation is applied, colours are converted to sRGB from what a colour profile says they are, transparency is
    laid on `background`, 16-bit grey is rounded to 8 bits, and an animation or a stack gives its first frame. The
    format is what the file contains, whatever its name.

    Args:
        data: What the file contains.
        mode: "RGB" or "L".
        background: The colour behind transparent images and around those that are padded.
        value_range: The values that become black and white, in the units of the file; those outside are clipped. Of
            palettes, CMYK and CIELab they are the values in red, green and blue. None is all that the depth of the
            file allows, which is unknown for floating-point, negative and 32-bit numbers.

    Returns:
        The image, and what was found.

    Raises:
        ImageError: If it cannot be decoded or has more than `PIL.Image.MAX_IMAGE_PIXELS` pixels, which are then not
            decoded; a ValuesError if its values need a `value_range`.
    """
    if not data:
        raise ImageError("the file is empty")
    try:
        try:
            return _decode(data, None, mode, background, value_range)
        except ValueError:
            # Pillow refuses a PNG with much text in this way.
            shorter, profile = without_text(data)
            if len(shorter) == len(data):
                raise
            return _decode(shorter, profile, mode, background, value_range)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        if data.startswith(_TIFF):
            raise ImageError(_OTHER_TIFF) from error
        raise ImageError("not an image in a format that Pillow reads, or one of zero size") from error
    except Exception as error:
        # On damaged files Pillow's readers raise whatever their parsing runs into.
        if "raw mode" in str(error):
            raise ImageError(_OTHER_TIFF if data.startswith(_TIFF) else _OTHER_PIXELS) from error
        raise ImageError(str(error) or type(error).__name__) from error


def _decode(
    data: bytes, profile: bytes | None, mode: str, background: str, value_range: ValueRange | None
) -> tuple[Image.Image, Found]:
    with _open(data) as image:
        width, height = image.size
        if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
            raise ImageError(
                f"{width} x {height} pixels, more than PIL.Image.MAX_IMAGE_PIXELS, {Image.MAX_IMAGE_PIXELS}"
            )
        stored = how_stored(image, data)
        image.load()
        if profile is None and "icc_profile" in image.info:
            # Pillow has None where it finds a profile that is damaged.
            profile = image.info["icc_profile"] or b""
        shown, found = _flatten(_turn_upright(image), stored, profile, background, value_range)
        # Counting frames moves the reader, which then has another image.
        shown = shown.copy() if shown is image else shown
        found = replace(found, num_frames_left_out=_num_frames(image) - 1)
    return shown.convert(mode) if shown.mode != mode else shown, found


def _num_frames(image: Image.Image) -> int:
    if image.format in _NO_FRAMES:
        return 1
    try:
        return max(1, getattr(image, "n_frames", 1))
    except Exception:
        # The frames behind the first one are damaged.
        return 1


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


def _flatten(
    image: Image.Image, stored: Stored, profile: bytes | None, background: str, value_range: ValueRange | None
) -> tuple[Image.Image, Found]:
    """Return the image in sRGB without transparency, in mode "RGB" or "L", and what was found in it."""
    found = None
    if is_grey_of_numbers(image, stored):
        image, found = grey_to_8_bits(image, stored, value_range)
    alpha = None
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("L", "LA", "La") else "RGBA")
        alpha = image.getchannel("A")
        image = image.convert(image.mode[:-1])
    if image.mode not in ("L", "RGB", "CMYK"):
        # The profile of CIELab is none of red, green and blue.
        stored, profile = Stored(), None if image.mode == "LAB" else profile
        image = image.convert("L" if image.mode == "1" else "RGB")
    if found is None and image.mode != "CMYK":
        image, found = stretch(image, stored, value_range)
    image, conversion = to_srgb(image, profile)
    if image.mode == "CMYK":
        image = image.convert("RGB")
    if found is None:
        image, found = stretch(image, Stored(), value_range)
    if conversion is not None:
        is_converted = conversion.apply is not None
        found = replace(found, is_converted=is_converted, profile_fault=conversion.fault)
    if alpha is not None:
        behind = Image.new("RGB", image.size, _rgb(background)).convert("RGBA")
        above = image.convert("RGB")
        above.putalpha(alpha)
        image = Image.alpha_composite(behind, above).convert("RGB")
    return image, found


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


def decode_square(data: bytes, mode: str, config: ImageConfig) -> tuple[Image.Image, Found]:
    """Decode an image and bring it to size as the settings say; see `decode_with_findings` and `resize_image`."""
    image, found = decode_with_findings(data, mode, config.background, config.value_range)
    return resize_image(image, config.resolution, config.resize, config.background), found
