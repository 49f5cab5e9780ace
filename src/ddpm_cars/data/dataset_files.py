"""The files of a dataset: what `datasets` reads of a folder and what not, and why a file cannot be read."""

import os
import tarfile
import zipfile
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from datasets.exceptions import DatasetsError
from huggingface_hub.constants import REPOCARD_NAME

from ddpm_cars.data.listing import class_of, readable_suffixes, say_suffixes, suffix_of, walk
from ddpm_cars.data.metadata import METADATA_FILES
from ddpm_cars.errors import UserError

_MAX_REASON = 400  # Characters of what a library says of a failure.
# Files that accompany a dataset and hold none of it.
_DOCUMENTS = {"", ".html", ".ipynb", ".lock", ".log", ".md", ".pdf", ".py", ".sh", ".txt", ".yaml", ".yml"}
# `datasets` lets through what the libraries below it raise.
_ERRORS = (
    *(DatasetsError, pa.ArrowException, tarfile.TarError, yaml.YAMLError, zipfile.BadZipFile),
    *(EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError),
)


def is_saved_to_disk(folder: str) -> bool:
    """Return whether `save_to_disk` of `datasets` has written a folder."""
    names = datasets.config.DATASETDICT_JSON_FILENAME, datasets.config.DATASET_STATE_JSON_FILENAME
    return any(Path(folder, name).is_file() for name in names)


def unread_files(folder: Path, read: Mapping[str, Sequence[str]], stop: bool) -> list[str]:
    """Say how many files of a local dataset `datasets` does not read.

    Args:
        folder: The folder.
        read: The paths of the files that it reads, by split.
        stop: Whether it is an error if these files are of the same kinds as others, which are read for their names.

    Returns:
        A sentence, or nothing if all files are read, except documents.

    Raises:
        UserError: If `stop`, and no README.md of the dataset says which files are read.
    """
    known = {os.path.abspath(path) for paths in read.values() for path in paths}
    found = {entry.path for entry in walk(folder) if not entry.name.startswith(".")}
    unread = sorted(path for path in found if os.path.abspath(path) not in known and suffix_of(path) not in _DOCUMENTS)
    if not unread:
        return []
    readable = readable_suffixes()
    kinds = {suffix_of(path) for path in known}
    kinds |= readable if kinds & readable else set()
    alike = [path for path in unread if suffix_of(path) in kinds]
    number = f"`datasets` reads {len(known):,} of {len(known) + len(unread):,} files"
    rest = f"not read: {say_suffixes(Counter(map(suffix_of, unread)))}, such as {(alike or unread)[0]}"
    if stop and alike and not _declares_files(folder / REPOCARD_NAME):
        splits = ", ".join(f"{split} ({len(paths):,})" for split, paths in read.items())
        cure = "put everything into one more folder named train"
        if not any(os.path.basename(path) in METADATA_FILES for path in unread):
            # Images that are directly in a split have no folder that says their class.
            paths = (Path(os.path.relpath(path, folder)).as_posix() for path in known if suffix_of(path) in readable)
            without = " (without classes)" if None in map(class_of, paths) else ""
            cure = f"give --split_folders true to leave these files out{without}, or {cure}"
        if kinds & readable:
            cure = f"give --train_data_dir {folder} --split_folders false to read all images as one set; {cure}"
        raise UserError(
            f"{folder}: {number}, those in splits that it finds by names, {splits}, such as "
            f"{sorted(known)[0]}; {rest}; {cure}"
        )
    return [f"{number}; {rest}"]


def _declares_files(readme: Path) -> bool:
    """Return whether the README.md of a dataset says which files are read."""
    try:
        return "configs" in (huggingface_hub.metadata_load(readme) or {})
    except (OSError, ValueError, yaml.YAMLError):
        return False


@contextmanager
def read_errors(place: str, what: str = "images") -> Iterator[None]:
    """Turn what `datasets` raises while it reads a dataset into a UserError with the innermost cause, in one line.

    Args:
        place: The dataset. If it is a folder, the first of its files that is damaged is named.
        what: What is read from it.
    """
    try:
        yield
    except UserError:
        raise
    except _ERRORS as error:
        damaged = next(filter(_is_damaged, _files_in(place)), None)
        named = "" if damaged is None else f"{damaged}: "
        raise UserError(f"no {what} can be read from {place}: {named}{_reason_of(error)}") from error


def _reason_of(error: BaseException) -> str:
    """Return in one line what an error of `datasets` says, or the error behind it that it hides."""
    while isinstance(error, DatasetsError) and error.__cause__ is not None:
        error = error.__cause__
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= _MAX_REASON else f"{line[:_MAX_REASON]} ..."


def _files_in(place: str) -> list[str]:
    try:
        return sorted(entry.path for entry in walk(Path(place)))
    except OSError:
        # It is on another machine, or nobody may look into it.
        return []


def _is_damaged(path: str) -> bool:
    """Return whether a file is no whole Parquet file or archive, as its name says."""
    try:
        if path.endswith(".parquet"):
            with pq.ParquetFile(path) as file:
                deque(file.iter_batches(64), maxlen=0)
        elif path.endswith(".tar"):
            with tarfile.open(path) as tar:
                deque(tar, maxlen=0)
        elif path.endswith(".zip"):
            zipfile.ZipFile(path).close()
    except _ERRORS:
        return True
    return False
