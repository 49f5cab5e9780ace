"""TODO src/ddpm_cars/data/listing.py."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddpm_cars.errors import UserError


@dataclass(frozen=True, eq=False)
class Source:
    """Images that are found but not decoded.

    Attributes:
        place: The folder or dataset, for messages.
        size: How many.
        read: Gives the bytes of image i; raises OSError or PictureError.
        path: Gives what a person finds image i by.
        fingerprint: A different one where anything about the files is different.
        labels: int64 (size,), or None without classes.
        class_names: The classes that the labels count through.
        not_listed: Files that look like images but are not among them.
        ignored_suffixes: How many other files there are, by suffix.
    """

    place: str
    size: int
    read: Callable[[int], bytes]
    path: Callable[[int], str]
    fingerprint: str
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    not_listed: list[str]
    ignored_suffixes: dict[str, int]


def _without(splits: Sequence[str], excluded_split: str | None, place: str) -> list[str]:
    """Return the splits but the excluded one."""
    if excluded_split is None:
        return list(splits)
    if excluded_split not in splits:
        if "[" in excluded_split or "+" in excluded_split:
            raise UserError(
                f"validation_split is {excluded_split!r}, which is not one whole split; say with split what is left "
                'to train on, such as validation_split: "train[90%:]" with split: "train[:90%]"'
            )
        raise UserError(f"validation_split is {excluded_split!r}; the splits of {place} are {', '.join(splits)}")
    rest = [name for name in splits if name != excluded_split]
    if not rest:
        raise UserError(
            f"validation_split is {excluded_split!r}, the only split of {place}; nothing is left to train on"
        )
    return rest


def _as_labels(classes: Sequence[Any], values: Sequence[Any]) -> np.ndarray:
    """Return the position of every class among `values`, int64."""
    position = {value: i for i, value in enumerate(values)}
    return np.array([position[value] for value in classes], dtype=np.int64)
