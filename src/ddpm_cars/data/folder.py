"""The images of train_data_dir with their classes, which are the names of folders or a column of metadata.csv."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.data.listing import (
    Listing,
    class_of,
    list_folder,
    say_suffixes,
    split_folder_of,
    unread_kinds,
    would_be_split,
)
from ddpm_cars.data.metadata import Metadata, sorted_classes
from ddpm_cars.data.source import Source, as_labels, class_notes, spans, without_split
from ddpm_cars.errors import UserError
from ddpm_cars.runtime.console import count

_NUM_NAMED = 5  # A message names at most so many folders.
_DATASET_SUFFIXES = {".arrow", ".parquet", ".tar"}


@dataclass(frozen=True)
class _Classes:
    """The classes of the images of a folder, by their paths."""

    of: dict[str, str]
    names: tuple[str, ...]  # In the order of their numbers.
    notes: list[str]
    are_folders: bool = True


def find_in_folder(config: ImageConfig, label_column: str | None, excluded_split: str | None) -> Source:
    """Find the images of `config.train_data_dir`, perhaps none of the split, in the order of splits and names.

    Args:
        config: The settings of the images.
        label_column: The column of metadata.csv that holds the classes, if they are not folders; None is no classes.
        excluded_split: Split that is not joined where `config.split` is None.

    Raises:
        UserError: If the folder or split does not exist, there are no classes, or folders can be read in two ways.
    """
    folder = Path(str(config.train_data_dir))
    if not folder.is_dir():
        raise UserError(f"train_data_dir {folder} is not a folder")
    split_folders = config.split_folders is not False
    try:
        listing = list_folder(folder, split_folders)
        if not listing.splits:
            raise UserError("; ".join([f"train_data_dir {folder} holds no images", *_what_else(listing)]))
        if config.split_folders is None and listing.beside:
            raise UserError(_two_readings(listing, folder, label_column is not None))
        names = _names_of(listing, config.split, excluded_split, folder)
        states: list = [(name, *_state_of(folder / name)) for name in names]
    except OSError as error:
        raise UserError(f"train_data_dir {folder} cannot be read: {error}") from error
    notes = _folder_notes(listing)
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    if label_column is not None:
        classes = _classes(names, listing, folder, label_column, split_folders)
        labels, class_names = as_labels([classes.of[name] for name in names], classes.names), classes.names
        notes += [*classes.notes, *class_notes(labels, class_names)]
        if not (classes.are_folders and split_folders):
            # Otherwise the paths say the classes, and the caches of earlier versions stay.
            states += [labels.tolist(), class_names]
    return Source(
        place=str(folder),
        size=len(names),
        read=lambda i: (folder / names[i]).read_bytes(),
        path=lambda i: str(folder / names[i]),
        fingerprint=hashlib.sha256(json.dumps(states).encode()).hexdigest(),
        labels=labels,
        class_names=class_names,
        not_listed=[str(folder / name) for name in sorted(listing.not_listed + listing.beside)],
        ignored_suffixes=listing.ignored_suffixes,
        notes=notes,
    )


def _what_else(listing: Listing) -> list[str]:
    """Say what a folder without images holds."""
    others = [unread_kinds(listing.not_listed)]
    if listing.ignored_suffixes:
        others.append(f"other files: {say_suffixes(listing.ignored_suffixes)}")
    if not _DATASET_SUFFIXES.isdisjoint(listing.ignored_suffixes):
        others.append("give a data set of such files as dataset_name")
    if listing.hidden:
        others.append(f"hidden files and folders are left out, such as {listing.hidden[0]}")
    return [other for other in others if other]


def _state_of(file: Path) -> tuple[int, int, int]:
    """Return what changes when the file changes, and stays when the folder is moved."""
    status = file.stat()
    # Archives and `cp -p` set the time of modification, which other images may then share; nobody can set the time
    # of change. The number of the file would tell more, but on FAT and FUSE it is another one every time.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _names_of(listing: Listing, split: str | None, excluded_split: str | None, folder: Path) -> list[str]:
    """Return the images that `split` asks for, in the notation of `datasets`, or all but those excluded."""
    splits = listing.splits
    try:
        if split is None:
            return [name for part in without_split(list(splits), excluded_split, str(folder)) for name in splits[part]]
        sizes = {part: len(names) for part, names in splits.items()}
        return [name for part, span in spans(split, sizes, str(folder)) for name in splits[part][span]]
    except UserError as error:
        raise UserError("; ".join([str(error), *_no_splits(listing)])) from error


def _no_splits(listing: Listing) -> list[str]:
    """Say which folders are no splits only because of their capital letters."""
    folders = sorted({name.split("/")[0] for name in [*listing.images(), *listing.beside] if "/" in name})
    found = [folder for folder in folders if would_be_split(folder)]
    if not found:
        return []
    are = "the folder {} is no split" if len(found) == 1 else "the folders {} are no splits"
    return [f"{are.format(', '.join(found))}, because only names in small letters are, such as {found[0].lower()}"]


def _two_readings(listing: Listing, folder: Path, with_classes: bool) -> str:
    """Say how a folder can be read in which some images are in splits and others are not."""
    loses = with_classes and not listing.metadata and None in map(class_of, listing.images())
    cure = (
        ", and the others have no classes, which class_conditional needs" if loses else ": give --split_folders true"
    )
    in_splits, beside = len(listing.images()), len(listing.beside)
    folders = _folders_of(listing, listing.splits)
    return (
        f"{folder} can be read in two ways. Either these folders are its splits, with {count(in_splits, 'image')}: "
        f"{folders}; then {count(beside, 'image')} beside them, such as {listing.beside[0]}, are left "
        f"out{cure}. Or all {in_splits + beside:,} images are one set, and these names mean no "
        "splits: give --split_folders false, or put everything into one more folder named train"
    )


def _folders_of(listing: Listing, splits: Iterable[str]) -> str:
    """Say which folders make splits, with the numbers of their images."""
    makers = [maker for split in splits for maker in sorted(listing.split_folders(split).items())]
    said = [f"{folder} ({number:,})" for folder, number in makers[:_NUM_NAMED]]
    return ", ".join(said) + (f" and {len(makers) - _NUM_NAMED:,} others" if len(makers) > _NUM_NAMED else "")


def _folder_notes(listing: Listing) -> list[str]:
    """Say which folders make a split together, which make none, and what is hidden."""
    joined = [split for split in listing.splits if len(listing.split_folders(split)) > 1]
    notes = [f"the split {split} is made of several folders: {_folders_of(listing, [split])}" for split in joined]
    notes += _no_splits(listing)
    if listing.hidden:
        notes.append(
            f"{count(len(listing.hidden), 'hidden image')}, or hidden folders of images, are left out, such as "
            f"{listing.hidden[0]}"
        )
    return notes


def _classes(names: list[str], listing: Listing, folder: Path, label_column: str, split_folders: bool) -> _Classes:
    """Return the classes of images: the label_column of the metadata files, the folders, or the only other column."""
    by_folder = {name: class_of(name, split_folders) for name in listing.images()}
    problem = _why_no_classes(names, by_folder, folder, split_folders)
    is_named = label_column != TrainingConfig.label_column
    try:
        metadata = Metadata(folder, listing.metadata)
    except UserError as error:
        if is_named or problem is not None:
            raise
        return _folder_classes(by_folder, listing, folder, [f"the names of folders are the classes, as {error}"])
    if label_column in metadata.columns:
        return _column_classes(names, listing, metadata, label_column)
    columns = ", ".join(metadata.columns) or "none"
    has = f"{metadata.place} has these columns beside file_name: {columns}" if listing.metadata else ""
    if is_named:
        raise UserError(f"label_column is {label_column!r}; {has or f'{folder} has no metadata.csv with this column'}")
    if problem is None:
        unused = f"the names of folders are the classes, and {has}; label_column takes one of them instead"
        return _folder_classes(by_folder, listing, folder, [unused] if has else [])
    if len(metadata.columns) == 1:
        [only] = metadata.columns
        classes = metadata.classes(only)
        # Otherwise it is something like a caption.
        if 2 * len(set(classes.values())) <= len(classes):
            return _column_classes(names, listing, metadata, only)
    others = [f"{has}: name one of them as label_column"] if has else []
    if not has and listing.tables:
        table = Path(listing.tables[0])
        others.append(
            f"if {folder / table} says the classes, call it metadata{table.suffix.lower()} and give it the columns "
            "file_name, with the paths of the images, and label"
        )
    raise UserError("; ".join([problem, *others]))


def _why_no_classes(
    names: list[str], by_folder: Mapping[str, str | None], folder: Path, split_folders: bool
) -> str | None:
    """Say why the folders around images are no classes, and what to do; None if they are."""
    rule = "the classes are the names of the folders that hold the images, but"
    cure = "make one folder per class, write a metadata.csv (file_name,label), or set class_conditional to false"
    loose = [name for name in names if by_folder[name] is None]
    if loose:
        number = f"{len(loose):,} of {count(len(names), 'image')}"
        around = {split_folder_of(name) or "" for name in loose} if split_folders else set()
        if len({PurePosixPath(place).parent for place in around}) > 1:
            inside = PurePosixPath(sorted(around)[0])
            cure = f"put the splits outside, {inside.name}/{inside.parent} and not {inside}; or {cure}"
        return f"{rule} {number} are in none, such as {folder / loose[0]}; {cure}"
    found = sorted({name for name in by_folder.values() if name is not None})
    if len(found) == 1:
        return f"{rule} all of {folder} are in one, {found[0]}; {cure}"
    if split_folders and all(map(would_be_split, found)):
        return (
            f"{rule} {', '.join(found)} look like splits, whose names have small letters only; rename them, or give "
            "--split_folders false if they are classes"
        )
    return None


def _folder_classes(by_folder: Mapping[str, str | None], listing: Listing, folder: Path, notes: list[str]) -> _Classes:
    of = {name: found for name, found in by_folder.items() if found is not None}
    parents = {PurePosixPath(name).parents[1] for name in of}
    holding = {parent for name in by_folder for parent in PurePosixPath(name).parents}
    beside = (parent / entry.name for parent in parents for entry in (folder / parent).iterdir() if entry.is_dir())
    empty = [str(path) for path in sorted(beside) if path not in holding and not path.name.startswith(".")]
    if empty:
        named = ", ".join(empty[:_NUM_NAMED])
        notes = [*notes, f"{count(len(empty), 'folder')} without images that are read make no class, such as {named}"]
    return _Classes(of, tuple(sorted(set(of.values()))), notes)


def _column_classes(names: list[str], listing: Listing, metadata: Metadata, column: str) -> _Classes:
    """Return the classes in a column of the metadata files. Raises UserError if an image has none."""
    of, images = metadata.classes(column), {*listing.images(), *listing.beside}
    place, cure = metadata.place, "or set class_conditional to false"
    unknown = [path for path in metadata.rows if path not in images]
    if len(unknown) == len(metadata.rows):
        raise UserError(
            f"{place} names no image that is there, but {unknown[0]}; file_name is a path from the folder of its "
            f"file, with slashes: correct it, {cure}"
        )
    without = [name for name in names if name not in of]
    if without:
        raise UserError(
            f"{len(without):,} of {count(len(names), 'image')} have no class in the column {column!r} of {place}, "
            f"{without[0]} for one; add them to it, {cure}"
        )
    class_names = sorted_classes({of[name] for name in listing.images() if name in of})
    if len(class_names) == 1:
        raise UserError(f"all images have the class {class_names[0]} in the column {column!r} of {place}; {cure[3:]}")
    notes = [f"the classes are the column {column!r} of {place}"]
    if unknown:
        rows = f"{len(unknown):,} of {count(len(metadata.rows), 'row')}"
        notes.append(f"{rows} of {place} name no image that is there, such as {unknown[0]}")
    return _Classes(of, class_names, notes, are_folders=False)
