"""The shards of a split: their names, their columns, their classes and their rows.

In a Parquet file, images are bytes in a column. In a WebDataset archive, a tar, the files of a sample lie side by side
and differ in the suffix of their names, which is the column.
"""

import hashlib
import itertools
import json
import os
import re
import tarfile
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets.utils.file_utils import xopen
from fsspec.core import url_to_fs

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.data.dataset import find_image_column
from ddpm_cars.data.dataset_files import is_saved_to_disk, read_errors, unread_files
from ddpm_cars.errors import UserError
from ddpm_cars.runtime.console import note_once

_TAR_MEMBER = re.compile(r"((?:.*/|)[^./]+)[.]([^/]*)")
_MAX_TAR_PADDING = 1 << 20
_NUM_THREADS = 16
_MAX_CLASSES = 100_000
_TAR_IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")


def _parquet_rows(path: str, columns: Sequence[str], start: int) -> Iterator[tuple[int, list[Any]]]:
    """Yield (number, values of the columns) of every row from `start` on; row groups before it are not read."""
    # Without a buffer, a column of a whole row group is read at once.
    with xopen(path, "rb") as raw, pq.ParquetFile(raw, buffer_size=1 << 20) as file:
        missing = [column for column in columns if column not in file.schema_arrow.names]
        if missing:
            raise UserError(f"{path} has no column {missing[0]!r}; it has {file.schema_arrow.names}")
        number = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if number + size <= start:
                number += size
                continue
            for batch in file.iter_batches(64, row_groups=[group], columns=[*columns], use_threads=False):
                values = [batch.column(column) for column in columns]
                values = [pc.struct_field(v, "bytes") if pa.types.is_struct(v.type) else v for v in values]
                for i in range(max(start - number, 0), len(batch)):
                    yield number + i, [value[i].as_py() for value in values]
                number += len(batch)


def _tar_samples(path: str, wanted: Sequence[str], start: int) -> Iterator[tuple[int, dict[str, bytes | None]]]:
    """Yield (first byte, fields) of every sample from byte `start` on; only the `wanted` fields are read."""
    key, begin = None, start
    fields: dict[str, bytes | None] = {}
    with xopen(path, "rb") as file:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                # Otherwise the memory of every member that it has seen would grow.
                tar.members = []  # type: ignore[attr-defined]
                name = _TAR_MEMBER.fullmatch(member.name)
                if name is None or not member.isreg() or os.path.basename(member.name).startswith("__"):
                    continue
                if name[1] != key:
                    if fields:
                        yield begin, fields
                    key, begin, fields = name[1], member.offset, {}
                if name[2] in fields:
                    raise tarfile.ReadError(f"{member.name} is there twice")
                fields[name[2]] = None
                if name[2] in wanted:
                    file.seek(member.offset_data)
                    fields[name[2]] = file.read(member.size)
            if fields:
                yield begin, fields
            # tarfile takes damage for the end. Behind the true end there are only zeros, and not many.
            file.seek(tar.offset)
            rest = file.read(_MAX_TAR_PADDING + 1)
            if len(rest) > _MAX_TAR_PADDING or rest.strip(b"\0"):
                raise tarfile.ReadError(f"at byte {tar.offset} no file begins")


def _tar_rows(path: str, columns: Sequence[str], start: int) -> Iterator[tuple[int, list[Any]]]:
    for begin, fields in _tar_samples(path, columns, start):
        yield begin, [fields.get(column) for column in columns]


# By the name of the builder in `datasets`: a function of (path, columns, start) that yields (place, values). The place
# of a row is the number of the row or the first byte of the sample, from which reading can start.
_READERS = {"parquet": _parquet_rows, "webdataset": _tar_rows}


@contextmanager
def _shard_errors(path: str) -> Iterator[None]:
    """Turn what goes wrong while a shard is read into an error that names it."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, tarfile.TarError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read: {reason}; replace or remove it") from error


def _columns_of(kind: str, path: str) -> dict[str, Any]:
    """Return the columns of a shard with their types; those of an archive have none."""
    with _shard_errors(path):
        if kind == "webdataset":
            samples = itertools.islice(_tar_samples(path, (), 0), 5)
            return {name: None for _, fields in samples for name in fields}
        with xopen(path, "rb") as raw, pq.ParquetFile(raw) as file:
            return dict(datasets.Features.from_arrow_schema(file.schema_arrow))


@dataclass
class Row:
    """A sample."""

    shard: int
    number: int  # In the shard.
    seek: int  # The place from which a reader can read it.
    image: bytes | None  # None if it has none, or once it is decoded.
    label: int | None
    result: np.ndarray | str | None = None  # uint8 (H, W, C), or the reason why there are no pixels.


@dataclass(frozen=True)
class Shards:
    """The shards of a split, sorted by name. Whoever reads one that cannot be read gets a UserError."""

    kind: str  # A key of `_READERS`.
    paths: tuple[str, ...]
    names: tuple[str, ...]  # What they are called in messages and in the identity of a run.
    fingerprint: str  # The hash of dataset, split, and names and sizes of the shards.
    image_column: str
    label_column: str | None = None  # None without classes.
    class_names: tuple[str, ...] = ()  # The digits where classes have no names, empty without classes.

    def _values(self, shard: int, columns: Sequence[str], seek: int = 0) -> Generator[tuple[int, list[Any]]]:
        with _shard_errors(self.paths[shard]):
            yield from _READERS[self.kind](self.paths[shard], columns, seek)

    def rows(self, shard: int, number: int = 0, seek: int = 0) -> Generator[Row]:
        """Yield the rows of a shard, beginning with the row that has this `number` and `seek`."""
        columns = [self.image_column] if self.label_column is None else [self.image_column, self.label_column]
        for i, (place, (image, *label)) in enumerate(self._values(shard, columns, seek), number):
            yield Row(shard, i, place, image, _as_label(label[0]) if label else None)

    def every_row(self) -> Generator[Row]:
        """Yield the rows of all shards."""
        for shard in range(len(self.paths)):
            yield from self.rows(shard)

    def labels(self, shard: int) -> set[int]:
        """Return the classes in a shard, reading nothing else."""
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

    Raises UserError if the data set, the split or a column does not exist, or the data set is not one of shards.
    """
    source = str(config.dataset_name)
    local = Path(source).is_dir()
    # `datasets` has a meaning of its own for words like "parquet", but not for whole paths.
    place = str(Path(source).absolute()) if local else source
    if local and is_saved_to_disk(place):
        raise UserError(
            f"{source} was written by save_to_disk; streaming reads Parquet files and WebDataset archives: drop "
            "--streaming, or write it with to_parquet"
        )
    with read_errors(source, what="shards"):
        builder = datasets.load_dataset_builder(place, config.dataset_config_name, cache_dir=config.cache_dir)
    kind = builder.name
    if kind not in _READERS:
        raise UserError(
            f"{source} is read by {kind!r}; streaming reads Parquet files and WebDataset archives: drop "
            "--streaming, or pack the images into such shards"
        )
    files = builder.config.data_files
    if split not in files:
        raise UserError(f"{source} has no split {split!r}; streaming reads one of {[str(name) for name in files]}")
    if local:
        read = {str(name): [*found] for name, found in files.items()}
        for text in unread_files(Path(source), read, stop=config.split_folders is None):
            note_once(f"{source}: {text}")
    paths = tuple(sorted(files[split]))
    # On the Hub, a path begins with a commit, which may have left the shards as they were.
    names = [os.path.relpath(p, source) if local else re.sub("^hf://[^@]*@[^/]*/", "", p) for p in paths]
    sizes = [fs.size(inside) for fs, inside in map(url_to_fs, paths)]
    identity = [None if local else source, config.dataset_config_name, split, names, sizes]
    fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    columns = _columns_of(kind, paths[0])
    shards = Shards(kind, paths, tuple(names), fingerprint, _find_image_column(config, kind, columns))
    if not config.class_conditional:
        return shards
    column = config.label_column
    if kind == "webdataset" and column not in columns and column == TrainingConfig.label_column:
        column = "cls"
    if column not in columns:
        raise UserError(f"{source} has no column {column!r}; it has {[*columns]}: give label_column")
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
