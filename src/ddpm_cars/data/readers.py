"""Reading shards: the rows of Parquet files and the samples of WebDataset archives, from any one on.

In a Parquet file, images are bytes in a column. In a WebDataset archive, a tar, the files of a sample lie side by side
and differ in the suffix of their names, which is the column.
"""

import itertools
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets.utils.file_utils import xopen

from ddpm_cars.errors import UserError

_TAR_MEMBER = re.compile(r"((?:.*/|)[^./]+)[.]([^/]*)")
_MAX_TAR_PADDING = 1 << 20


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


READERS = {"parquet": _parquet_rows, "webdataset": _tar_rows}
"""By the name of the builder in `datasets`: a function of (path, columns, start) that yields (place, values).

The place of a row is the number of the row or the first byte of the sample, from which reading can start.
"""


@contextmanager
def shard_errors(path: str) -> Iterator[None]:
    """Turn what goes wrong while a shard is read into an error that names it."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, tarfile.TarError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read: {reason}; replace or remove it") from error


def columns_of(kind: str, path: str) -> dict[str, Any]:
    """Return the columns of a shard with their types; those of an archive have none.

    Raises:
        UserError: If the shard cannot be read.
    """
    with shard_errors(path):
        if kind == "webdataset":
            samples = itertools.islice(_tar_samples(path, (), 0), 5)
            return {name: None for _, fields in samples for name in fields}
        with xopen(path, "rb") as raw, pq.ParquetFile(raw) as file:
            return dict(datasets.Features.from_arrow_schema(file.schema_arrow))
