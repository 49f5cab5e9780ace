"""The files of a folder that say what its images show: metadata.csv, metadata.jsonl and metadata.parquet.

This is the ImageFolder convention of `datasets`: each row has the path of an image in the column file_name, relative
to the folder of the file. What is read are only the classes. A value is what the file says: the word NA is a class.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from ddpm_cars.errors import UserError

METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""The names of files that say what images show."""
FILE_NAME = "file_name"
"""The column with the path of an image."""


class Metadata:
    """What the metadata files of a folder say about its images.

    Args:
        folder: The folder.
        names: Its metadata files, relative to it.

    Raises:
        UserError: If a file cannot be read, has no column file_name, or an image has two different rows.
    """

    def __init__(self, folder: Path, names: Sequence[str]):
        self.place = ", ".join(str(folder / name) for name in names)  # For messages.
        self.rows: dict[str, Mapping[str, Any]] = {}  # The rows, by the paths of images relative to the folder.
        for name in names:
            for number, row in enumerate(_read(folder / name), 1):
                path = (PurePosixPath(name).parent / str(row[FILE_NAME])).as_posix()
                if self.rows.setdefault(path, row) != row:
                    raise UserError(f"{folder / name}, row {number}: {path} has another row as well; keep one of them")
        found = dict.fromkeys(column for row in self.rows.values() for column in row)
        self.columns = [column for column in found if column != FILE_NAME]

    def classes(self, column: str) -> dict[str, str]:
        """Return the class of every image that has one, by its path. Raises UserError if they are fractions."""
        values = {path: row.get(column) for path, row in self.rows.items()}
        given = {path: value for path, value in values.items() if value not in (None, "")}
        for path, value in given.items():
            if not isinstance(value, str | int):
                raise UserError(
                    f"the column {column!r} of {self.place} holds {value!r} for {path}; classes are integers or "
                    "words: name another label_column, or set class_conditional to false"
                )
        return {path: str(value) for path, value in given.items()}


def sorted_classes(names: set[str]) -> tuple[str, ...]:
    """Return the names of classes in their order: integers by value, words by letters."""
    numbers = all(re.fullmatch(r"-?\d+", name) for name in names)
    return tuple(sorted(names, key=lambda name: (int(name), name) if numbers else (0, name)))


def _read(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a metadata file."""
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    try:
        for number, row in enumerate(readers[path.suffix](path), 1):
            if not isinstance(row, dict) or not row.get(FILE_NAME):
                has = f"has {', '.join(map(str, row))}" if isinstance(row, dict) else f"is {row!r}"
                raise UserError(f"{path}, row {number}, has no {FILE_NAME}, the path of an image; it {has}")
            yield row
    except UserError:
        raise
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}; mend it or remove it") from error


def _read_csv(path: Path) -> Iterator[dict]:
    # Excel puts a mark before the first column.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        names = reader.fieldnames or []
        if len(names) == 1 and (other := re.search(r"[;|\t]", names[0])):
            raise ValueError(f"its columns are separated by {other[0]!r}; they are to be separated by commas")
        for row in reader:
            if None in row:
                raise ValueError(f"line {reader.line_num} has more values than there are columns")
            yield row


def _read_jsonl(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from error


def _read_parquet(path: Path) -> Iterator[dict]:
    table = pq.read_table(path)
    features = datasets.Features.from_arrow_schema(table.schema)
    named = {name: kind.names for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
    for row in table.to_pylist():
        known = {name: row[name] for name in named if row[name] is not None}
        # -1 is a class that is not known.
        yield {**row, **{name: named[name][value] if value >= 0 else None for name, value in known.items()}}
