"""Files that are complete or absent, whatever happens to the process or the disk."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ddpm_cars.errors import UserError

NUM_SIGNIFICANT_DIGITS = 6


def rounded(values: Any) -> Any:
    """Return an array as nested lists of numbers with six significant digits, for JSON."""
    if isinstance(values, list):
        return [rounded(value) for value in values]
    if isinstance(values, np.ndarray):
        return rounded(values.tolist())
    return float(f"{values:.{NUM_SIGNIFICANT_DIGITS}g}")


def fsync_path(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces `path` if the block succeeds and is deleted if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    remove(temporary)
    try:
        yield temporary
        for file in temporary.rglob("*") if temporary.is_dir() else ():
            fsync_path(file)
        fsync_path(temporary)
        if path.is_dir():
            # A folder cannot be replaced in one move. The old one is deleted only when the new one is in its place.
            replaced = path.with_name(f".{path.name}.old")
            remove(replaced)
            os.replace(path, replaced)
            os.replace(temporary, path)
            fsync_path(path.parent)
            remove(replaced)
        else:
            os.replace(temporary, path)
            fsync_path(path.parent)
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Delete a file, or a folder with everything in it; there may be none."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_file(path: Path) -> Any:
    """Read a .json or YAML file, None if there is none. Raises UserError if it is damaged."""
    if not path.exists():
        return None
    try:
        # JSON is also YAML, but the reader of JSON is faster and stricter.
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read: {said}; mend or remove it") from error
