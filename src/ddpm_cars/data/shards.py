"""The shards of a split: their names, their columns, their classes and their rows.

A shard is a Parquet file or a WebDataset archive; `readers` knows the two formats.
"""

import hashlib
import json
import os
import re
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets.exceptions import DatasetNotFoundError
from fsspec.core import url_to_fs

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.data.dataset import find_image_column
from ddpm_cars.data.readers import READERS, columns_of, shard_errors
from ddpm_cars.errors import UserError

_NUM_THREADS = 16
_MAX_CLASSES = 100_000
_TAR_IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")


@dataclass
class Row:
    """A sample.

    Attributes:
        shard: Number of its shard.
        number: Its number in the shard.
        seek: The place from which a reader can read it.
        image: The bytes of its image; None if it has none, or once it is decoded.
        label: Its class; None without one.
        result: What decoding gave: uint8 (H, W, C), or the reason why there are no pixels.
    """

    shard: int
    number: int
    seek: int
    image: bytes | None
    label: int | None
    result: np.ndarray | str | None = None


@dataclass(frozen=True)
class Shards:
    """The shards of a split, sorted by name.

    Attributes:
        kind: A key of `READERS`.
        paths: Where they are.
        names: What they are called in messages and in the identity of a run.
        fingerprint: The hash of dataset, split, and names and sizes of the shards.
        image_column: The column of images.
        label_column: The column of classes, None without classes.
        class_names: The names of the classes; the digits where they have none, empty without classes.
    """

    kind: str
    paths: tuple[str, ...]
    names: tuple[str, ...]
    fingerprint: str
    image_column: str
    label_column: str | None = None
    class_names: tuple[str, ...] = ()

    def _values(self, shard: int, columns: Sequence[str], seek: int = 0) -> Generator[tuple[int, list[Any]]]:
        with shard_errors(self.paths[shard]):
            yield from READERS[self.kind](self.paths[shard], columns, seek)

    def rows(self, shard: int, number: int = 0, seek: int = 0) -> Generator[Row]:
        """Yield the rows of a shard, beginning with the row that has this `number` and `seek`.

        Raises:
            UserError: If the shard cannot be read.
        """
        columns = [self.image_column] if self.label_column is None else [self.image_column, self.label_column]
        for i, (place, (image, *label)) in enumerate(self._values(shard, columns, seek), number):
            yield Row(shard, i, place, image, _as_label(label[0]) if label else None)

    def every_row(self) -> Generator[Row]:
        """Yield the rows of all shards.

        Raises:
            UserError: If a shard cannot be read.
        """
        for shard in range(len(self.paths)):
            yield from self.rows(shard)

    def labels(self, shard: int) -> set[int]:
        """Return the classes in a shard, reading nothing else.

        Raises:
            UserError: If the shard cannot be read.
        """
        labels = {_as_label(value) for _, [value] in self._values(shard, [str(self.label_column)])}
        return {label for label in labels if label is not None}


def _as_label(value: Any) -> int | None:
    # A Parquet file holds integers, and an archive holds their digits.
    try:
        return None if value is None else int(value)
    except ValueError:
        return None


def open_shards(config: TrainingConfig, split: str | None) -> Shards:
    """Find the shards of a split, and the columns in the first of them.

    Raises:
        UserError: If the data set, the split or a column does not exist, or the data set is not one of shards.
    """
    source = str(config.dataset_name)
    local = Path(source).is_dir()
    # `datasets` has a meaning of its own for words like "parquet", but not for whole paths.
    place = str(Path(source).absolute()) if local else source
    try:
        builder = datasets.load_dataset_builder(place, config.dataset_config_name, cache_dir=config.cache_dir)
    except (DatasetNotFoundError, datasets.data_files.EmptyDatasetError, OSError, ValueError) as error:
        raise UserError(f"no shards can be read from {source}: {' '.join(str(error).split())}") from error
    kind = builder.name
    if kind not in READERS:
        raise UserError(
            f"{source} is read by {kind!r}; streaming reads Parquet files and WebDataset archives: drop "
            "--streaming, or pack the images into such shards"
        )
    files = builder.config.data_files
    if split not in files:
        raise UserError(f"{source} has no split {split!r}; streaming reads one of {[str(name) for name in files]}")
    paths = tuple(sorted(files[split]))
    # On the Hub, a path begins with a commit, which may have left the shards as they were.
    names = [os.path.relpath(p, source) if local else re.sub("^hf://[^@]*@[^/]*/", "", p) for p in paths]
    sizes = [fs.size(inside) for fs, inside in map(url_to_fs, paths)]
    identity = [None if local else source, config.dataset_config_name, split, names, sizes]
    fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    columns = columns_of(kind, paths[0])
    shards = Shards(kind, paths, tuple(names), fingerprint, _find_image_column(config, kind, columns))
    if not config.class_conditional:
        return shards
    column = _find_label_column(config, kind, columns)
    declared = {**columns, **(builder.info.features or {})}[column]
    shards = replace(shards, label_column=column)
    return replace(shards, class_names=_class_names(shards, declared))


def _find_image_column(config: TrainingConfig, kind: str, columns: dict[str, Any]) -> str:
    def holds_images(column: str) -> bool:
        if kind == "webdataset":
            return column.rsplit(".", 1)[-1].lower() in _TAR_IMAGES
        return isinstance(columns[column], datasets.Image)

    name = find_image_column(config, columns, list(filter(holds_images, columns)))
    if name not in columns:
        raise UserError(f"{config.dataset_name} has no column {name!r}; it has {[*columns]}: give image_column")
    holds = columns[name]
    is_image = isinstance(holds, datasets.Image) or (isinstance(holds, dict) and "bytes" in holds)
    if kind == "parquet" and not is_image and getattr(holds, "dtype", None) not in ("binary", "large_binary"):
        raise UserError(f"column {name!r} of {config.dataset_name} holds {holds}, not images: give image_column")
    return name


def _find_label_column(config: TrainingConfig, kind: str, columns: dict[str, Any]) -> str:
    name = config.label_column
    if kind == "webdataset" and name not in columns and name == TrainingConfig.label_column:
        name = "cls"
    if name not in columns:
        raise UserError(f"{config.dataset_name} has no column {name!r}; it has {[*columns]}: give label_column")
    return name


def _class_names(shards: Shards, declared: Any) -> tuple[str, ...]:
    """Return the declared names of the classes. If classes are only numbers, all of them have to be read."""
    column = shards.label_column
    if isinstance(declared, datasets.ClassLabel):
        return tuple(declared.names)
    if shards.kind == "parquet" and "int" not in str(getattr(declared, "dtype", None)):
        raise UserError(f"column {column!r} holds {declared}; classes are a ClassLabel or integers")
    if shards.kind == "webdataset" and "://" in shards.paths[0]:
        raise UserError(
            f"to count the classes in {column!r}, all of {shards.names[0]} and the other shards would have to be "
            "loaded; declare them as a class_label under dataset_info in the README.md of the data set"
        )
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        found = set[int]().union(*pool.map(shards.labels, range(len(shards.paths))))
    if not found or min(found) < 0 or max(found) >= _MAX_CLASSES:
        span = f"numbers from {min(found)} to {max(found)}" if found else "no integers"
        raise UserError(f"column {column!r} holds {span}; classes are numbered from 0 to {_MAX_CLASSES - 1} at most")
    return tuple(str(number) for number in range(max(found) + 1))
