"""Images that are found but not decoded, their splits and their classes."""

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
        size: The number of images.
        read: Returns the bytes of image i, or raises OSError or ImageError.
        path: Returns the name by which a person finds image i.
        fingerprint: It changes if anything about the files changes.
        labels: The class of each image, int64 (size,); None without classes.
        class_names: The names of the classes.
        not_listed: Files that look like images but are not among them.
        ignored_suffixes: The number of other files, by suffix.
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


def without_split(splits: Sequence[str], excluded_split: str | None, place: str) -> list[str]:
    """Return the splits except the excluded one.

    Raises:
        UserError: If there is no such split, or no other one.
    """
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


def as_labels(classes: Sequence[Any], values: Sequence[Any]) -> np.ndarray:
    """Return the position of every class among `values`, int64 (len(classes),)."""
    position = {value: i for i, value in enumerate(values)}
    return np.array([position[value] for value in classes], dtype=np.int64)
