"""What a folder and a dataset have in common: images that are found but not decoded, with splits and classes."""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from ddpm_cars.errors import UserError

_NUM_NAMED = 5  # A note names at most so many classes.


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
    notes: list[str]  # Sentences about what a person may not expect.


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


def spans(split: str, sizes: Mapping[str, int], place: str) -> list[tuple[str, slice]]:
    """Return the parts of splits that `split` asks for in the notation of `datasets`.

    Args:
        split: What is asked for, such as "train[:90%]+test".
        sizes: The number of images of every split.
        place: The folder or dataset, for the message.

    Raises:
        UserError: If there is no such split, or the text is not in this notation.
    """
    try:
        parts = datasets.ReadInstruction.from_spec(split).to_absolute(dict(sizes))
    except (AssertionError, ValueError) as error:
        raise UserError(f"split is {split!r}, of {place}: {error}") from error
    return [(part.splitname, slice(part.from_, part.to)) for part in parts]


def as_labels(classes: Sequence[Any], values: Sequence[Any]) -> np.ndarray:
    """Return the position of every class among `values`, int64 (len(classes),)."""
    position = {value: i for i, value in enumerate(values)}
    return np.array([position[value] for value in classes], dtype=np.int64)


def class_notes(labels: np.ndarray, class_names: Sequence[str]) -> list[str]:
    """Say which classes have names that are easily taken for one, and which have no image among those that are read.

    Args:
        labels: The class of every image that is read, int64 (N,).
        class_names: The names of the classes.
    """
    groups = defaultdict(list)
    for name in class_names:
        groups[" ".join(unicodedata.normalize("NFKC", name).casefold().split())].append(name)
    alike = [" and ".join(map(repr, names)) for names in groups.values() if len(names) > 1]
    notes = []
    if alike:
        notes.append(f"classes whose names differ only in case, spaces or encoding stay apart: {_some(alike)}")
    numbers = np.bincount(labels, minlength=len(class_names))
    if missing := [name for name, number in zip(class_names, numbers, strict=True) if number == 0]:
        of = f"{len(missing):,} of {len(class_names):,} classes"
        notes.append(f"{of} have no image among those that are read, and nothing is learned of them: {_some(missing)}")
    return notes


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:_NUM_NAMED], *(["..."] if len(names) > _NUM_NAMED else [])])
