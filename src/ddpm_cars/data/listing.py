"""Images that are found but not decoded, in a folder or a dataset: their splits, their classes and their names."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
from datasets.exceptions import DatasetsError
from PIL import Image

from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.data.decoding import ImageError
from ddpm_cars.errors import UserError
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
_UNREADABLE_SUFFIXES = {".avif", ".heic", ".heif", ".jxl", ".svg"}


@dataclass(frozen=True, eq=False)
class Source:
    """Images that are found but not decoded."""

    place: str  # The folder or dataset, for messages.
    size: int  # The number of images.
    read: Callable[[int], bytes]  # Returns the bytes of image i, or raises OSError or ImageError.
    path: Callable[[int], str]  # Returns the name by which a person finds image i.
    fingerprint: str  # It changes if anything about the files changes.
    labels: np.ndarray | None  # The class of each image, int64 (size,).
    class_names: tuple[str, ...]
    not_listed: list[str]  # Files that look like images but are not among them.
    ignored_suffixes: dict[str, int]  # The number of other files, by suffix.


def without_split(splits: Sequence[str], excluded_split: str | None, place: str) -> list[str]:
    """Return the splits except the excluded one. Raises UserError if there is no such split, or no other one."""
    if excluded_split is None:
        return list(splits)
    if excluded_split not in splits:
        if "[" in excluded_split or "+" in excluded_split:
            raise UserError(
                f"validation_split is {excluded_split!r}, which is not one whole split; say what is left to train "
                'on: give split "train[:90%]" with validation_split "train[90%:]"'
            )
        if len(splits) > 1:
            raise UserError(f"validation_split is {excluded_split!r}; the splits of {place} are {', '.join(splits)}")
        raise UserError(
            f"validation_split is {excluded_split!r}, and {place} has no splits but {', '.join(splits)}; make folders "
            'train/ and test/ in it, or give split "train[:90%]" with validation_split "train[90%:]"'
        )
    rest = [name for name in splits if name != excluded_split]
    if not rest:
        raise UserError(
            f"validation_split is {excluded_split!r}, the only split of {place}; nothing is left to train on"
        )
    return rest


def as_labels(classes: Sequence[Any], values: Sequence[Any]) -> np.ndarray:
    """Return the position of every class among `values`, int64 (len(classes),)."""
    position = {value: i for i, value in enumerate(values)}
    return np.array([position[value] for value in classes], dtype=np.int64)


def find_pictures(config: ImageConfig, label_column: str | None = None, excluded_split: str | None = None) -> Source:
    """Find the images of `config`, perhaps none, in the order of the splits and of the names or rows in them.

    Without a split, all but the excluded one are joined. Raises UserError if the folder, dataset, split or column does
    not exist, or there are no classes.
    """
    if config.train_data_dir is not None:
        return _find_in_folder(Path(config.train_data_dir), config.split, label_column is not None, excluded_split)
    return _find_in_dataset(config, label_column, excluded_split)


@dataclass(frozen=True)
class Listing:
    """What a folder holds. Paths are relative to it, with slashes, and sorted."""

    splits: dict[str, list[str]]  # Images of train, validation and test, by the names of folders, or of train alone.
    not_listed: list[str]  # Images that are in no split, cannot be read by Pillow, or are links to nothing.
    ignored_suffixes: dict[str, int]  # How many files of other kinds there are, by suffix.


def _known_suffixes() -> set[str]:
    Image.init()
    return {suffix for suffix, name in Image.EXTENSION.items() if name in Image.OPEN}


def readable_suffixes() -> set[str]:
    """Return the endings of the files that are read as images, in small letters and with the dot."""
    return {suffix for suffix in _known_suffixes() if Image.EXTENSION[suffix] not in _UNREADABLE_FORMATS}


def unread_kinds(names: Iterable[str]) -> str:
    """Say how many of some files are images of kinds that are not read, and what to do; "" if none is."""
    suffixes = Counter(os.path.splitext(name)[1].lower() for name in names)
    found = {suffix: number for suffix, number in suffixes.items() if suffix not in readable_suffixes()}
    if not found:
        return ""
    kinds = ", ".join(f"{number} {suffix}" for suffix, number in sorted(found.items()))
    return f"{count(sum(found.values()), 'file')} of kinds that are not read ({kinds}): convert them to JPEG or PNG"


def list_folder(folder: Path) -> Listing:
    """Find the images of a folder and its subfolders. Links are followed; hidden files and folders are left out.

    The splits are those that the "imagefolder" of `datasets` finds by the names of folders. Unlike there, the name of
    a file makes no split, links to folders are followed, and an image in several splits is in the outermost one.
    Raises OSError if a folder cannot be listed.
    """
    known, readable = _known_suffixes(), readable_suffixes()
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


def _find_in_folder(folder: Path, split: str | None, with_classes: bool, excluded_split: str | None) -> Source:
    """Find the images of train_data_dir; see `find_pictures`."""
    if not folder.is_dir():
        raise UserError(f"train_data_dir {folder} is not a folder")
    try:
        listing = list_folder(folder)
        if not listing.splits:
            kinds = ", ".join(
                f"{number} {suffix or 'without an ending'}" for suffix, number in listing.ignored_suffixes.items()
            )
            others = [unread_kinds(listing.not_listed), f"other files: {kinds}" if kinds else ""]
            raise UserError("; ".join([f"train_data_dir {folder} holds no images", *filter(None, others)]))
        names = _names_of(listing.splits, split, excluded_split, str(folder))
        states = [(name, *_state_of(folder / name)) for name in names]
    except OSError as error:
        raise UserError(f"train_data_dir {folder} cannot be read: {error}") from error
    everywhere = [name for part in listing.splits.values() for name in part]
    labels, class_names = _folder_classes(names, everywhere, folder) if with_classes else (None, ())
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


def _find_in_dataset(config: ImageConfig, label_column: str | None, excluded_split: str | None) -> Source:
    """Find the images of dataset_name; see `find_pictures`."""
    place = str(config.dataset_name)
    if config.split is None:
        found = _open_dataset(config, None)
        parts = {name: found[name] for name in without_split(list(found), excluded_split, place)}
    else:
        parts = {config.split: _open_dataset(config, config.split)}
    features = next(iter(parts.values())).features
    with_images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    image_column = find_image_column(config, features, with_images)
    if label_column == TrainingConfig.label_column and label_column not in features and "cls" in features:
        # This is the name of the column in archives of WebDataset.
        label_column = "cls"
    for column in (image_column, label_column):
        if column is not None and column not in features:
            raise UserError(f"{place} has no column {column!r}; it has {', '.join(features)}")
    images = datasets.concatenate_datasets([part.select_columns(image_column) for part in parts.values()])
    try:
        rows = images.cast_column(image_column, datasets.Image(decode=False))
    except (NotImplementedError, TypeError, ValueError) as error:
        kind = features[image_column]
        raise UserError(f"image_column {image_column!r} of {place} holds {kind}, not images") from error
    ends = np.cumsum([len(part) for part in parts.values()])

    def read(i: int) -> bytes:
        row = rows[i][image_column]
        if row is None or (row["bytes"] is None and row["path"] is None):
            raise ImageError("the row has no image")
        if row["bytes"] is not None:
            return row["bytes"]
        if "://" not in row["path"]:
            return Path(row["path"]).read_bytes()
        # The image is in an archive, or on another machine.
        with fsspec.open(row["path"], "rb") as file:
            return file.read()

    def path(i: int) -> str:
        row = rows[i][image_column]
        if row is not None and row["path"] is not None:
            return row["path"]
        part = int(np.searchsorted(ends, i, side="right"))
        return f"row {i - (ends[part - 1] if part else 0)} of {list(parts)[part]}"

    labels, class_names = (None, ()) if label_column is None else _column_classes(config, label_column, parts, path)
    # The documentation of `datasets` gives this name for what changes with the data ("The cache").
    return Source(place, len(rows), read, path, rows._fingerprint, labels, class_names, [], {})


def find_image_column(config: ImageConfig, columns: Collection[str], with_images: Sequence[str]) -> str:
    """Return the column of images: the one in the settings, or the only one if the default name is missing."""
    by_itself = config.image_column == ImageConfig.image_column and config.image_column not in columns
    return with_images[0] if by_itself and len(with_images) == 1 else config.image_column


def _open_dataset(config: ImageConfig, split: str | None) -> Any:
    """Return a split of dataset_name, or a dict of all of them."""
    name = str(config.dataset_name)
    if Path(name).is_dir():
        # `datasets` has readers with names such as "parquet", and so may a folder.
        name = str(Path(name).absolute())
    try:
        return datasets.load_dataset(name, config.dataset_config_name, split=split, cache_dir=config.cache_dir)
    except (DatasetsError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"no images can be read from {config.dataset_name}: {reason}") from error


def _column_classes(
    config: ImageConfig, column: str, parts: dict[str, Any], path: Callable[[int], str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the classes in a column, int64, and the names of those of all splits."""
    kind = next(iter(parts.values())).features[column]
    classes = [value for part in parts.values() for value in part.select_columns(column)[:][column]]
    if isinstance(kind, datasets.ClassLabel):
        values, names = list(range(kind.num_classes)), kind.names
    elif isinstance(kind, datasets.Value) and re.fullmatch(r"u?int\d+|(large_)?string", kind.dtype):
        # The classes of every split count, so that a class has the same number in each.
        values = sorted({v for part in _open_dataset(config, None).values() for v in part.unique(column)} - {None})
        names = [str(value) for value in values]
    else:
        raise UserError(
            f"the column {column!r} of {config.dataset_name} holds {kind}; classes are a ClassLabel, integers or "
            "strings: name another label_column, or set class_conditional to false"
        )
    known = set(values)
    without = [i for i, value in enumerate(classes) if value not in known]
    if without:
        raise UserError(
            f"{len(without)} of {len(classes)} images of {config.dataset_name} have no class in the column "
            f"{column!r}, {path(without[0])} for one; choose a split that has, or set class_conditional to false"
        )
    return as_labels(classes, values), tuple(names)
