"""The images of a folder: which there are, and in which splits and classes the names of its folders put them."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ddpm_cars.data.metadata import METADATA_FILES
from ddpm_cars.runtime.console import count

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
_TABLES = {os.path.splitext(name)[1] for name in METADATA_FILES}
_UNREADABLE_SUFFIXES = {".avif", ".heic", ".heif", ".jxl", ".svg"}


@dataclass(frozen=True)
class Listing:
    """What a folder holds. Paths are relative to it, with slashes, and sorted."""

    splits: dict[str, list[str]]  # Images of train, validation and test, by the names of folders, or of train alone.
    beside: list[str]  # Images that are in no split, where others are.
    not_listed: list[str]  # Images that cannot be read by Pillow or are links to nothing.
    ignored_suffixes: dict[str, int]  # How many files of other kinds there are, by suffix.
    metadata: list[str]  # Those of them that may say what the images show.
    tables: list[str]  # Those that would, if they were called metadata.
    hidden: list[str]  # Hidden images, and hidden folders with images.

    def images(self) -> list[str]:
        """Return the images of all splits."""
        return [name for names in self.splits.values() for name in names]

    def split_folders(self, split: str) -> Counter[str]:
        """Return how many images of a split are in each of the folders that make it; none if no folder does."""
        return Counter(folder for name in self.splits[split] if (folder := split_folder_of(name)) is not None)


def _known_suffixes() -> set[str]:
    Image.init()
    return {suffix for suffix, name in Image.EXTENSION.items() if name in Image.OPEN}


def readable_suffixes() -> set[str]:
    """Return the endings of the files that are read as images, in small letters and with the dot."""
    return {suffix for suffix in _known_suffixes() if Image.EXTENSION[suffix] not in _UNREADABLE_FORMATS}


def suffix_of(name: str) -> str:
    """Return the ending of the name of a file, in small letters and with the dot."""
    return os.path.splitext(name)[1].lower()


def unread_kinds(names: Iterable[str]) -> str:
    """Say how many of some files are images of kinds that are not read, and what to do; "" if none is."""
    found = {suffix: n for suffix, n in Counter(map(suffix_of, names)).items() if suffix not in readable_suffixes()}
    if not found:
        return ""
    return (
        f"{count(sum(found.values()), 'file')} of kinds that are not read ({say_suffixes(found)}): "
        "convert them to JPEG or PNG"
    )


def say_suffixes(suffixes: dict[str, int]) -> str:
    """Say how many files have each ending: "3 .csv, 1 without an ending"."""
    return ", ".join(f"{number:,} {suffix or 'without an ending'}" for suffix, number in sorted(suffixes.items()))


def list_folder(folder: Path, split_folders: bool = True) -> Listing:
    """Find the images of a folder and its subfolders. Links are followed; hidden files and folders are left out.

    The splits are those that the "imagefolder" of `datasets` finds by the names of folders. Unlike there, the name of
    a file makes no split, links to folders are followed, and an image in several splits is in the outermost one.

    Args:
        folder: The folder.
        split_folders: Whether the names of folders make splits. If not, all images are those of train.

    Raises:
        OSError: If a folder cannot be listed.
    """
    known, readable = _known_suffixes(), readable_suffixes()
    images, not_listed, metadata, tables, hidden = [], [], [], [], []
    ignored: Counter[str] = Counter()
    for entry in walk(folder):
        name = Path(entry.path).relative_to(folder).as_posix()
        suffix = suffix_of(entry.name)
        if entry.name.startswith("."):
            if suffix in readable or _is_folder_of_images(entry, readable):
                hidden.append(name)
        elif suffix in readable and entry.is_file():
            images.append(name)
        elif suffix in known or suffix in _UNREADABLE_SUFFIXES:
            not_listed.append(name)
        else:
            ignored[suffix] += 1
            if entry.name in METADATA_FILES:
                metadata.append(name)
            elif suffix in _TABLES:
                tables.append(name)
    splits: dict[str, list[str]] = {split: [] for split in _SPLIT_WORDS}
    beside: list[str] = []
    for name in sorted(images):
        split = _find_split(name)[0] if split_folders else None
        (beside if split is None else splits[split]).append(name)
    splits = {split: names for split, names in splits.items() if names}
    if not splits:
        splits, beside = ({"train": beside} if beside else {}), []
    suffixes = dict(sorted(ignored.items()))
    return Listing(splits, beside, sorted(not_listed), suffixes, sorted(metadata), sorted(tables), sorted(hidden))


def class_of(name: str, split_folders: bool = True) -> str | None:
    """Return the class of a listed image: the folder around it, None if that is a split or the listed folder."""
    folders = name.split("/")[:-1]
    below = folders[_find_split(name)[1] :] if split_folders else folders
    return below[-1] if below else None


def split_folder_of(name: str) -> str | None:
    """Return the outermost folder around an image whose name makes a split."""
    return "/".join(name.split("/")[: _find_split(name)[1]]) or None


def _find_split(name: str) -> tuple[str | None, int]:
    """Return the split that a path says it belongs to, and how many folders lead to it and include it."""
    for depth, folder in enumerate(name.split("/")[:-1], 1):
        if found := _SPLIT_FOLDER.search(folder):
            return _SPLIT_OF_WORD[found[1]], depth
    return None, 0


def would_be_split(name: str) -> bool:
    """Return whether a folder of this name would be a split if its capital letters were small."""
    return name.lower() != name and name.lower() in _SPLIT_OF_WORD


def walk(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[os.DirEntry]:
    """Yield every file of a folder and its subfolders, and the hidden folders, which are not looked into.

    Args:
        folder: The folder.
        above: The identities of the folders that lead here.
    """
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    # A link to a folder that contains it would be followed for ever, and shows nothing new.
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir() and not entry.name.startswith("."):
                yield from walk(Path(entry.path), above | {here})
            else:
                yield entry


def _is_folder_of_images(entry: os.DirEntry, readable: set[str]) -> bool:
    """Return whether a hidden folder holds images itself. One that nobody may read holds none."""
    try:
        return entry.is_dir() and any(suffix_of(name) in readable for name in os.listdir(entry.path))
    except OSError:
        return False
