"""From the numbers that a file holds to brightness: which of them is black, which is white, and what lies outside."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from ddpm_cars.data.findings import Found, ImageError, ValuesError

ValueRange = tuple[float, float]
"""The values that become black and white, in the units of a file."""

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # Tags of TIFF.
_WHITE_IS_ZERO = 0
_UNSIGNED, _SIGNED = 1, 2


def to_unit(values: np.ndarray, value_range: ValueRange) -> np.ndarray:
    """Return values as brightness, float64 of the same shape: (value - low) / (high - low), clipped to [0, 1]."""
    low, high = value_range
    unit = np.subtract(values, low, dtype=np.float64)
    unit /= high - low
    return np.clip(unit, 0, 1, out=unit)


def to_8_bits(values: np.ndarray, value_range: ValueRange) -> np.ndarray:
    """Return values as the nearest of 256 levels between black and white, uint8 of the same shape."""
    if values.dtype in (np.uint8, np.uint16):
        # Of so few different values a table is quicker, and takes less memory.
        levels = np.arange(np.iinfo(values.dtype).max + 1, dtype=np.uint16)
        return np.rint(to_unit(levels, value_range) * 255).astype(np.uint8)[values]
    return np.rint(to_unit(values, value_range) * 255).astype(np.uint8)


class Stored(NamedTuple):
    """How a file stores the numbers of its pixels, which the mode of Pillow does not say."""

    bits: int = 8  # The bits of a number; of a colour image of 16 bits Pillow has the upper 8.
    sample_format: int = _UNSIGNED
    is_inverted: bool = False  # Whether the file says that 0 is white. Pillow has turned round what has 8 bits.

    @property
    def white(self) -> int:
        """The number that is white."""
        return 4095 if self.bits == 12 else 65535 if self.bits > 8 else 255

    def kind(self, image: Image.Image) -> str:
        """Return what kind of numbers the pixels of an image are."""
        sign = "signed " if self.sample_format == _SIGNED else ""
        return "floating-point" if image.mode == "F" else f"{sign}{max(8, self.bits)}-bit"


def how_stored(image: Image.Image, data: bytes) -> Stored:
    """Return how the file with the bytes `data` stores the numbers of `image`, which is just opened.

    Raises ImageError if Pillow takes its numbers for others.
    """
    if image.format == "FITS" and image.mode != "L":
        # Their bytes come in the other order, and their zero may be moved.
        raise ImageError("Pillow misreads FITS files of more than 8 bits; convert it to TIFF")
    if image.format == "PNG":
        # The depth stands in the header, at the same place in every file.
        return Stored(bits=data[24])
    if image.mode.startswith(("I", "F")) and image.format != "TIFF":
        return Stored(bits=16)
    if image.format != "TIFF":
        return Stored()
    tags = image.tag_v2  # type: ignore[attr-defined]
    return Stored(
        bits=max(tags.get(_BITS_PER_SAMPLE, (8,))),
        sample_format=max(tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))),
        is_inverted=image.mode != "1" and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO,
    )


def is_grey_of_numbers(image: Image.Image, stored: Stored) -> bool:
    """Return whether an image is grey and of other numbers than 0 to 255."""
    return image.mode.startswith(("I", "F")) or (image.mode == "L" and stored.sample_format == _SIGNED)


def grey_to_8_bits(image: Image.Image, stored: Stored, value_range: ValueRange | None) -> tuple[Image.Image, Found]:
    """Turn an image of one number per pixel into mode "L", or "LA" if one of the numbers stands for transparent.

    Raises ValuesError if nothing says which number is white, and ImageError if some are not finite.
    """
    values = _numbers(image, stored)
    if not np.isfinite(values).all():
        number = np.count_nonzero(~np.isfinite(values))
        raise ImageError(f"{number} of its {values.size} values are not finite numbers (NaN or infinite)")
    low, high = float(values.min()), float(values.max())
    if value_range is None and (image.mode == "F" or low < 0 or high > stored.white):
        raise ValuesError(low, high)
    black_to_white = value_range or (0, stored.white)
    levels = to_8_bits(values, black_to_white)
    grey = Image.fromarray(255 - levels if stored.is_inverted else levels)
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    num_clipped = 0 if value_range is None else np.count_nonzero((values < value_range[0]) | (values > value_range[1]))
    return grey, Found(black_to_white, low, high, values.size, int(num_clipped), kind=stored.kind(image))


def _numbers(image: Image.Image, stored: Stored) -> np.ndarray:
    values = np.asarray(image)
    if image.mode == "L" and stored.sample_format == _SIGNED:
        return values.view(np.int8)
    if image.mode == "I" and stored.sample_format == _UNSIGNED and image.format == "TIFF":
        return values.view(np.uint32)
    # The byte order of the file is that of the array as well.
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def stretch(image: Image.Image, stored: Stored, value_range: ValueRange | None) -> tuple[Image.Image, Found]:
    """Bring an image of 8 bits, "L" or "RGB", from `value_range` to 0 to 255; None leaves it as it is."""
    num_bands = len(image.getbands())
    # Pillow has the upper 8 bits of a colour image of 16.
    step = 65535 // 255 if stored.white == 65535 else 1
    numbers = np.arange(256) * step
    counts = np.array(image.histogram()).reshape(num_bands, 256).sum(0)
    if stored.is_inverted:
        counts = counts[::-1]
    low, high = (float(v) for v in numbers[np.flatnonzero(counts)[[0, -1]]])
    size = image.width * image.height * num_bands
    if value_range is None:
        return image, Found((0, int(numbers[-1])), low, high, size, kind=stored.kind(image), step=step)
    outside = (numbers < value_range[0]) | (numbers > value_range[1])
    levels = to_8_bits(numbers, value_range)
    if stored.is_inverted:
        levels = 255 - levels[::-1]
    num_clipped = int(counts[outside].sum())
    found = Found(value_range, low, high, size, num_clipped, kind=stored.kind(image), step=step)
    return image.point(levels.tolist() * num_bands), found
