"""Where pictures come from: a folder, or a dataset of the Hub or in a local folder."""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
from datasets.exceptions import DatasetsError

from ddpm_cars.config import ConfigError, ImageConfig, TrainingConfig
from ddpm_cars.images import PictureError, class_of, list_folder
from ddpm_cars.picture_cache import Source


def find_pictures(config: ImageConfig, label_column: str | None = None, excluded_split: str | None = None) -> Source:
    """Find the pictures of `config` without decoding them.

    Args:
        config: Names the folder or dataset, and the split; without a split all of them are joined.
        label_column: Column with the classes, None for no classes; see `load_pictures`.
        excluded_split: Split that is not joined where `config.split` is None.

    Returns:
        The pictures, perhaps none, in the order of the splits and of the names in them, or of the rows.

    Raises:
        ConfigError: If the folder, dataset, split or column does not exist, or there are no classes.
    """
    if config.train_data_dir is not None:
        return _find_in_folder(Path(config.train_data_dir), config.split, label_column is not None, excluded_split)
    return _find_in_dataset(config, label_column, excluded_split)


def _without(splits: Sequence[str], excluded_split: str | None, place: str) -> list[str]:
    """Return the splits but the excluded one."""
    if excluded_split is None:
        return list(splits)
    if excluded_split not in splits:
        if "[" in excluded_split or "+" in excluded_split:
            raise ConfigError(
                f"validation_split is {excluded_split!r}, which is not one whole split; say with split what is left "
                'to train on, such as validation_split: "train[90%:]" with split: "train[:90%]"'
            )
        raise ConfigError(f"validation_split is {excluded_split!r}; the splits of {place} are {', '.join(splits)}")
    rest = [name for name in splits if name != excluded_split]
    if not rest:
        raise ConfigError(
            f"validation_split is {excluded_split!r}, the only split of {place}; nothing is left to train on"
        )
    return rest


def _find_in_folder(folder: Path, split: str | None, with_classes: bool, excluded_split: str | None) -> Source:
    """Find the pictures of train_data_dir."""
    if not folder.is_dir():
        raise ConfigError(f"train_data_dir {folder} is not a folder")
    try:
        listing = list_folder(folder)
        if not listing.splits:
            others = f"; beside them it has {listing.ignored_suffixes}" if listing.ignored_suffixes else ""
            raise ConfigError(f"train_data_dir {folder} holds no pictures{others}")
        names = _names_of(listing.splits, split, excluded_split, str(folder))
        states = [(name, *_state_of(folder / name)) for name in names]
    except OSError as error:
        raise ConfigError(f"train_data_dir {folder} cannot be read: {error}") from error
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
    """Return what a change of the file changes, and a move of the folder does not."""
    status = file.stat()
    # Archives and `cp -p` set the time of modification, which other pictures may then share; nobody can set the time
    # of change. The number of the file would tell more, but on FAT and FUSE it is another one every time.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _names_of(splits: dict[str, list[str]], split: str | None, excluded_split: str | None, place: str) -> list[str]:
    """Return the pictures that `split` asks for, in the notation of `datasets`, or all but those excluded."""
    if split is None:
        return [name for part in _without(list(splits), excluded_split, place) for name in splits[part]]
    try:
        spans = datasets.ReadInstruction.from_spec(split).to_absolute({part: len(splits[part]) for part in splits})
    except (AssertionError, ValueError) as error:
        raise ConfigError(f"split is {split!r}, of {place}: {error}") from error
    return [name for span in spans for name in splits[span.splitname][span.from_ : span.to]]


def _folder_classes(names: list[str], everywhere: list[str], folder: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the classes of the pictures, int64 (len(names),), and the names of those of all splits."""
    classes = [class_of(name) for name in names]
    if None in classes:
        loose = folder / names[classes.index(None)]
        raise ConfigError(
            f"the classes are the names of the folders that hold the pictures, but {loose} "
            "is in none; make one folder per class, or set class_conditional to false"
        )
    class_names = tuple(sorted({found for name in everywhere if (found := class_of(name)) is not None}))
    if len(class_names) == 1:
        raise ConfigError(
            f"the classes are the names of the folders that hold the pictures, but all of {folder} are in one, "
            f"{class_names[0]}; make one folder per class, or set class_conditional to false"
        )
    return _as_labels(classes, class_names), class_names


def _as_labels(classes: Sequence[Any], values: Sequence[Any]) -> np.ndarray:
    """Return the position of every class among `values`, int64."""
    position = {value: i for i, value in enumerate(values)}
    return np.array([position[value] for value in classes], dtype=np.int64)


def _find_in_dataset(config: ImageConfig, label_column: str | None, excluded_split: str | None) -> Source:
    """Find the pictures of dataset_name."""
    place = str(config.dataset_name)
    if config.split is None:
        found = _open_dataset(config, None)
        parts = {name: found[name] for name in _without(list(found), excluded_split, place)}
    else:
        parts = {config.split: _open_dataset(config, config.split)}
    features = next(iter(parts.values())).features
    pictures = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    image_column = find_image_column(config, features, pictures)
    if label_column == TrainingConfig.label_column and label_column not in features and "cls" in features:
        # What archives of WebDataset call it.
        label_column = "cls"
    for column in (image_column, label_column):
        if column is not None and column not in features:
            raise ConfigError(f"{place} has no column {column!r}; it has {', '.join(features)}")
    images = datasets.concatenate_datasets([part.select_columns(image_column) for part in parts.values()])
    try:
        rows = images.cast_column(image_column, datasets.Image(decode=False))
    except (NotImplementedError, TypeError, ValueError) as error:
        kind = features[image_column]
        raise ConfigError(f"image_column {image_column!r} of {place} holds {kind}, not pictures") from error
    ends = np.cumsum([len(part) for part in parts.values()])

    def read(i: int) -> bytes:
        row = rows[i][image_column]
        if row is None or (row["bytes"] is None and row["path"] is None):
            raise PictureError("the row has no picture")
        if row["bytes"] is not None:
            return row["bytes"]
        if "://" not in row["path"]:
            return Path(row["path"]).read_bytes()
        # A picture in an archive, or elsewhere.
        with fsspec.open(row["path"], "rb") as file:
            return file.read()

    def path(i: int) -> str:
        row = rows[i][image_column]
        if row is not None and row["path"] is not None:
            return row["path"]
        part = int(np.searchsorted(ends, i, side="right"))
        return f"row {i - (ends[part - 1] if part else 0)} of {list(parts)[part]}"

    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    if label_column is not None:
        labels, class_names = _column_classes(config, label_column, parts, path)
    return Source(place, len(rows), read, path, rows._fingerprint, labels, class_names, [], {})


def find_image_column(config: ImageConfig, columns: Collection[str], pictures: Sequence[str]) -> str:
    """Return the column of pictures: the only one, where the usual name is not there and no other was given.

    Args:
        config: Names it.
        columns: All that there are.
        pictures: Those of them that hold pictures.
    """
    by_itself = config.image_column == ImageConfig.image_column and config.image_column not in columns
    return pictures[0] if by_itself and len(pictures) == 1 else config.image_column


def _open_dataset(config: ImageConfig, split: str | None) -> Any:
    """Return a split of dataset_name, or a dict of all of them."""
    name = str(config.dataset_name)
    if Path(name).is_dir():
        # A folder may have the name of one of the readers of `datasets`.
        name = str(Path(name).absolute())
    try:
        return datasets.load_dataset(name, config.dataset_config_name, split=split, cache_dir=config.cache_dir)
    except (DatasetsError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"no pictures can be read from {config.dataset_name}: {reason}") from error


def _column_classes(
    config: ImageConfig, column: str, parts: dict[str, Any], path: Callable[[int], str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the classes in a column, int64, and the names of those of all splits."""
    kind = next(iter(parts.values())).features[column]
    classes = [value for part in parts.values() for value in part.select_columns(column)[:][column]]
    if isinstance(kind, datasets.ClassLabel):
        values, names = list(range(kind.num_classes)), kind.names
    elif isinstance(kind, datasets.Value) and re.fullmatch(r"u?int\d+|(large_)?string", kind.dtype):
        # Of every split, so that a class has the same number in each.
        values = sorted({v for part in _open_dataset(config, None).values() for v in part.unique(column)} - {None})
        names = [str(value) for value in values]
    else:
        raise ConfigError(
            f"the column {column!r} of {config.dataset_name} holds {kind}; classes are a ClassLabel, integers or "
            "strings: name another label_column, or set class_conditional to false"
        )
    known = set(values)
    without = [i for i, value in enumerate(classes) if value not in known]
    if without:
        raise ConfigError(
            f"{len(without)} of {len(classes)} pictures of {config.dataset_name} have no class in the column "
            f"{column!r}, {path(without[0])} for one; choose a split that has, or set class_conditional to false"
        )
    return _as_labels(classes, values), tuple(names)
