"""Files of pictures: which ones a folder holds, the pixels of each, and how they become squares."""

import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageOps, UnidentifiedImageError

# The words, and what may stand around them in a folder's name, by which `datasets` tells the splits of a folder apart.
_SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF_WORD = {word: split for split, words in _SPLIT_WORDS.items() for word in words}
_SPLIT_FOLDER = re.compile(rf"(?:^|[-._ 0-9])({'|'.join(_SPLIT_OF_WORD)})(?:$|[-._ 0-9])")

# Pillow has a name for these formats, but no pixels, or only with the help of another program.
_UNREADABLE_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_UNREADABLE_SUFFIXES = {".avif", ".heic", ".heif", ".jxl", ".svg"}

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


class PictureError(ValueError):
    """A file that gives no picture; the message is the reason, without the name of the file."""


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
        splits: Paths of the pictures of each split, relative to the folder and with slashes, sorted. The splits are
            train, validation and test, by the names of folders, or train alone.
        not_listed: Such paths of pictures that are in no split, cannot be read by Pillow, or are links to nothing.
        ignored_suffixes: How many files of other kinds there are, by suffix.
    """

    splits: dict[str, list[str]]
    not_listed: list[str]
    ignored_suffixes: dict[str, int]


def list_folder(folder: Path) -> Listing:
    """Find the pictures of a folder, subfolders and what links lead to included, hidden files and folders not.

    The splits are those that the "imagefolder" of `datasets` finds by the names of folders. Different from there, the
    name of a file makes no split, links to folders are followed, and a picture in several splits is in the outer one.

    Args:
        folder: An existing folder.

    Returns:
        The pictures by split, and what else there is.

    Raises:
        OSError: If a folder cannot be listed.
    """
    Image.init()
    known = {suffix for suffix, name in Image.EXTENSION.items() if name in Image.OPEN}
    readable = {suffix for suffix in known if Image.EXTENSION[suffix] not in _UNREADABLE_FORMATS}
    pictures: list[str] = []
    not_listed: list[str] = []
    ignored: Counter[str] = Counter()
    for entry in _walk(folder, frozenset()):
        name = Path(entry.path).relative_to(folder).as_posix()
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix in readable and entry.is_file():
            pictures.append(name)
        elif suffix in known or suffix in _UNREADABLE_SUFFIXES:
            not_listed.append(name)
        else:
            ignored[suffix] += 1
    splits: dict[str, list[str]] = {split: [] for split in _SPLIT_WORDS}
    outside: list[str] = []
    for name in sorted(pictures):
        split, _ = _split_of(name)
        (splits[split] if split else outside).append(name)
    splits = {split: names for split, names in splits.items() if names}
    if not splits:
        splits, outside = ({"train": outside} if outside else {}), []
    return Listing(splits, sorted(not_listed + outside), dict(sorted(ignored.items())))


def class_of(name: str) -> str | None:
    """Return the class of a listed picture: the folder around it, None if that is a split or the listed folder."""
    _, folders = _split_of(name)
    return folders[-1] if folders else None


def _split_of(name: str) -> tuple[str | None, list[str]]:
    """Return the split that a path says it belongs to, and the folders below the one that says so."""
    folders = name.split("/")[:-1]
    for i, folder in enumerate(folders):
        if found := _SPLIT_FOLDER.search(folder):
            return _SPLIT_OF_WORD[found[1]], folders[i + 1 :]
    return None, folders


def _walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[os.DirEntry]:
    """Yield every file that is not hidden; `above` holds the identities of the folders that lead here."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    # A link to a folder that contains it would be followed for ever, and shows nothing new.
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(Path(entry.path), above | {here})
            else:
                yield entry


def decode_image(source: str | os.PathLike | bytes, mode: str = "RGB", background: str = "white") -> Image.Image:
    """Decode one picture as a viewer would show it.

    EXIF rotation is applied, transparency is laid on `background`, 16-bit grey is rounded to 8 bits, of an animation
    the first frame is taken, and what the file contains counts rather than its name.

    Args:
        source: Path, or the bytes of the file.
        mode: "RGB" or "L".
        background: Colour behind transparent parts, in the notation of `PIL.ImageColor`.

    Returns:
        The picture in `mode`.

    Raises:
        OSError: If the file cannot be read.
        PictureError: If it cannot be decoded, or has more than `PIL.Image.MAX_IMAGE_PIXELS` pixels, which are then
            not decoded.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    if not data:
        raise PictureError("the file is empty")
    try:
        with _open(data) as image:
            width, height = image.size
            if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
                raise PictureError(
                    f"{width} x {height} pixels, more than PIL.Image.MAX_IMAGE_PIXELS, {Image.MAX_IMAGE_PIXELS}"
                )
            image.load()
            image = _turn_upright(image)
        return _flatten(image, background).convert(mode)
    except (PictureError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise PictureError("not a picture in a format that Pillow reads, or one of zero size") from error
    except Exception as error:
        # On damaged files Pillow's readers raise whatever their parsing runs into.
        raise PictureError(str(error) or type(error).__name__) from error


def _open(data: bytes) -> Image.Image:
    # Pillow checks the number of pixels before anyone can ask for it, and only warns up to twice the limit.
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
        # Damaged EXIF takes nothing from the pixels.
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _flatten(image: Image.Image, background: str) -> Image.Image:
    """Return the picture in mode "RGB", without transparency."""
    if image.mode == "F":
        raise PictureError("its pixels are floating-point numbers, of which nothing says what is white")
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
        raise PictureError(f"its pixels run from {values.min()} to {values.max()}, not from 0 to 65535")
    grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _rgb(colour: str) -> tuple[int, ...]:
    return ImageColor.getrgb(colour)[:3]


def resize_image(image: Image.Image, resolution: int, resize: str, background: str = "white") -> Image.Image:
    """Bring a picture to `resolution` x `resolution` pixels with an antialiasing filter.

    Args:
        image: Any size, in mode "RGB" or "L".
        resolution: Height and width of the result.
        resize: "squash", "crop" or "pad"; see `ImageConfig.resize`.
        background: Colour of the borders of "pad", in the notation of `PIL.ImageColor`.

    Returns:
        The square, in the mode of `image`.
    """
    size = (resolution, resolution)
    if resize == "crop":
        return ImageOps.fit(image, size, Image.Resampling.BICUBIC)
    if resize == "squash":
        return image.resize(size, Image.Resampling.BICUBIC)
    # Unlike in `ImageOps.pad`, the thinnest strip stays visible.
    width, height = (max(1, round(side / max(image.size) * resolution)) for side in image.size)
    square = Image.new("RGB", size, _rgb(background)).convert(image.mode)
    left, top = round((resolution - width) / 2), round((resolution - height) / 2)
    square.paste(image.resize((width, height), Image.Resampling.BICUBIC), (left, top))
    return square
