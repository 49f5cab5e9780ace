"""The images of a dataset, on the Hub or in a local folder, found but not decoded."""

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
from datasets.exceptions import DatasetsError

from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.data.decoding import ImageError
from ddpm_cars.data.listing import Source, as_labels, without_split
from ddpm_cars.errors import UserError


def find_in_dataset(config: ImageConfig, label_column: str | None, excluded_split: str | None) -> Source:
    """Find the images of dataset_name; see `pictures.find_pictures`."""
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

    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    if label_column is not None:
        labels, class_names = _column_classes(config, label_column, parts, path)
    # The documentation of `datasets` gives this name for what changes with the data ("The cache").
    return Source(place, len(rows), read, path, rows._fingerprint, labels, class_names, [], {})


def find_image_column(config: ImageConfig, columns: Collection[str], with_images: Sequence[str]) -> str:
    """Return the column of images: the one in the settings, or the only one if the default name is missing.

    Args:
        config: The settings.
        columns: All columns of the dataset.
        with_images: The columns that hold images.
    """
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
