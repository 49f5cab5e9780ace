"""The images of a folder, found but not decoded: its splits, its classes and what else it holds."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from ddpm_cars.data.listing import Source, as_labels, without_split
from ddpm_cars.errors import UserError

# `datasets` recognises the splits of a folder by these words in the names of folders, and by what stands around them.
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


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
        splits: Paths of the images of each split, relative to the folder and with slashes, sorted. The splits are
            train, validation and test, by the names of folders, or train alone.
        not_listed: Such paths of images that are in no split, cannot be read by Pillow, or are links to nothing.
        ignored_suffixes: How many files of other kinds there are, by suffix.
    """

    splits: dict[str, list[str]]
    not_listed: list[str]
    ignored_suffixes: dict[str, int]


def list_folder(folder: Path) -> Listing:
    """Find the images of a folder and its subfolders. Links are followed; hidden files and folders are left out.

    The splits are those that the "imagefolder" of `datasets` finds by the names of folders. Unlike there, the name of
    a file makes no split, links to folders are followed, and an image in several splits is in the outermost one.

    Args:
        folder: An existing folder.

    Returns:
        The images by split, and what else there is.

    Raises:
        OSError: If a folder cannot be listed.
    """
    Image.init()
    known = {suffix for suffix, name in Image.EXTENSION.items() if name in Image.OPEN}
    readable = {suffix for suffix in known if Image.EXTENSION[suffix] not in _UNREADABLE_FORMATS}
    images: list[str] = []
    not_listed: list[str] = []
    ignored: Counter[str] = Counter()
    for entry in _walk(folder, frozenset()):
        name = Path(entry.path).relative_to(folder).as_posix()
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix in readable and entry.is_file():
            images.append(name)
        elif suffix in known or suffix in _UNREADABLE_SUFFIXES:
            not_listed.append(name)
        else:
            ignored[suffix] += 1
    splits: dict[str, list[str]] = {split: [] for split in _SPLIT_WORDS}
    outside: list[str] = []
    for name in sorted(images):
        split, _ = _split_of(name)
        (splits[split] if split else outside).append(name)
    splits = {split: names for split, names in splits.items() if names}
    if not splits:
        splits, outside = ({"train": outside} if outside else {}), []
    return Listing(splits, sorted(not_listed + outside), dict(sorted(ignored.items())))


def class_of(name: str) -> str | None:
    """Return the class of a listed image: the folder around it, None if that is a split or the listed folder."""
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


def find_in_folder(folder: Path, split: str | None, with_classes: bool, excluded_split: str | None) -> Source:
    """Find the images of train_data_dir; see `pictures.find_pictures`."""
    if not folder.is_dir():
        raise UserError(f"train_data_dir {folder} is not a folder")
    try:
        listing = list_folder(folder)
        if not listing.splits:
            others = f"; beside them it has {listing.ignored_suffixes}" if listing.ignored_suffixes else ""
            raise UserError(f"train_data_dir {folder} holds no images{others}")
        names = _names_of(listing.splits, split, excluded_split, str(folder))
        states = [(name, *_state_of(folder / name)) for name in names]
    except OSError as error:
        raise UserError(f"train_data_dir {folder} cannot be read: {error}") from error
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    if with_classes:
        everywhere = [name for part in listing.splits.values() for name in part]
        labels, class_names = _folder_classes(names, everywhere, folder)
    return Source(
        place=str(folder),
        size=len(names),
        read=lambda i: (folder / names[i]).read_bytes(),
        path=lambda i: str(folder / names[i]),
        fingerprint=hashlib.sha256(json.dumps(states).encode()).hexdigest(),
        labels=labels,
        class_names=class_names,
        not_listed=[str(folder / name) for name in listing.not_listed],
        ignored_suffixes=listing.ignored_suffixes,
    )


def _state_of(file: Path) -> tuple[int, int, int]:
    """Return what changes when the file changes, and stays when the folder is moved."""
    status = file.stat()
    # Archives and `cp -p` set the time of modification, which other images may then share; nobody can set the time
    # of change. The number of the file would tell more, but on FAT and FUSE it is another one every time.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _names_of(splits: dict[str, list[str]], split: str | None, excluded_split: str | None, place: str) -> list[str]:
    """Return the images that `split` asks for, in the notation of `datasets`, or all but those excluded."""
    if split is None:
        return [name for part in without_split(list(splits), excluded_split, place) for name in splits[part]]
    try:
        spans = datasets.ReadInstruction.from_spec(split).to_absolute({part: len(splits[part]) for part in splits})
    except (AssertionError, ValueError) as error:
        raise UserError(f"split is {split!r}, of {place}: {error}") from error
    return [name for span in spans for name in splits[span.splitname][span.from_ : span.to]]


def _folder_classes(names: list[str], everywhere: list[str], folder: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the classes of the images, int64 (len(names),), and the names of those of all splits."""
    classes = [class_of(name) for name in names]
    if None in classes:
        loose = folder / names[classes.index(None)]
        raise UserError(
            f"the classes are the names of the folders that hold the images, but {loose} "
            "is in none; make one folder per class, or set class_conditional to false"
        )
    class_names = tuple(sorted({found for name in everywhere if (found := class_of(name)) is not None}))
    if len(class_names) == 1:
        raise UserError(
            f"the classes are the names of the folders that hold the images, but all of {folder} are in one, "
            f"{class_names[0]}; make one folder per class, or set class_conditional to false"
        )
    return as_labels(classes, class_names), class_names
