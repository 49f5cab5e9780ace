"""From a folder or dataset of images to uint8 arrays, decoded once, and to what the network sees."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.data.cache import DECODER_VERSION, Decoded, cache_folder, decode_once
from ddpm_cars.data.colours import can_convert
from ddpm_cars.data.dataset import find_in_dataset
from ddpm_cars.data.decoding import image_mode
from ddpm_cars.data.findings import (
    frames_of,
    give_value_range,
    of_another_kind,
    report_of,
    say_bad,
    warnings_of,
    written,
)
from ddpm_cars.data.folder import find_in_folder
from ddpm_cars.data.listing import unread_kinds
from ddpm_cars.data.source import Source
from ddpm_cars.errors import UserError
from ddpm_cars.runtime.console import count, note, note_once, warn
from ddpm_cars.runtime.files import write_text


@dataclass(frozen=True, eq=False)
class Pictures:
    """Decoded images, without those that cannot be decoded.

    Attributes:
        images: A read-only memory map, uint8 (N, height, width, channels).
        labels: int64 (N,), the class of each; None without classes.
        class_names: The classes of every split; empty without classes.
        digests: uint64 (N,), of the bytes of the files. Copies have the same digest, also in another split.
        sha256: The hash of all pixels and labels in order, in hexadecimal digits. It identifies the training data.
        report: What became of every file: "source", "num_images" (N), "num_listed" (with the bad ones), "bad_images"
            (each with "path" and "reason"), "duplicates" (lists of paths of files with the same bytes, all of which
            are kept), "not_listed" (images in no split or of a kind that is not read), "ignored_suffixes" (the
            number of other files, by suffix), "notes" (sentences about what a person may not expect of the files, such
            as how many of them `datasets` reads), and what `report_of` adds.
    """

    images: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    digests: np.ndarray
    sha256: str
    report: dict[str, Any]


def load_pictures(
    config: ImageConfig,
    num_channels: int = 3,
    *,
    label_column: str | None = None,
    excluded_split: str | None = None,
    report_path: Path | None = None,
    check_number: Callable[[str, int], None] | None = None,
) -> Pictures:
    """Decode every image of `config`, once: a later call with the same files and settings reads the result.

    Images that cannot be decoded are left out. If there are any, or files that are not part of the data, one line
    on stderr says so.

    Args:
        config: The settings: the images, their resolution and how to reach it, and how many may be bad.
        num_channels: 3 for colour, 1 for grey.
        label_column: Column with the classes: a ClassLabel, integers or strings. For train_data_dir it is one of
            metadata.csv, and if that has no column "label", the names of the folders that hold the images are the
            classes. None is no classes.
        excluded_split: Split that is not joined where `config.split` is None.
        report_path: Where the report is written as JSON. Only one of several processes gives it.
        check_number: Called with the folder or dataset and the number of its images, before anything is decoded and
            again with the number of those that can be decoded; raises UserError if there are too few.

    Returns:
        The images.

    Raises:
        UserError: If the folder, dataset, split or column does not exist, holds no images or no
            classes, if more than `config.max_bad_images_fraction` of the images cannot be decoded, or if what is
            decoded cannot be kept in `config.cache_dir`.
    """
    image_mode(num_channels)
    find = find_in_dataset if config.train_data_dir is None else find_in_folder
    source = find(config, label_column, excluded_split)
    for text in source.notes:
        note_once(f"{source.place}: {text}")
    _check_number(source.place, source.size, check_number)
    settings = [config.resolution, config.resize, config.background, config.split, label_column, excluded_split]
    # What is usual is not in the key, so that a cache of an earlier version is found.
    unusual = {"value_range": config.value_range, "without LittleCMS": not can_convert() or None}
    settings += [f"{name} {value}" for name, value in unusual.items() if value is not None]
    key = json.dumps([DECODER_VERSION, source.fingerprint, source.size, num_channels, *settings])
    path = cache_folder(config.cache_dir) / hashlib.sha256(key.encode()).hexdigest()[:32]
    decoded = decode_once(source, path, config, num_channels)
    report = _make_report(source, decoded)
    if report_path is not None:
        write_text(report_path, json.dumps(report, indent=1))
    _check_bad(report, config.max_bad_images_fraction, report_path)
    for line in warnings_of(report):
        warn(line)
    _check_number(source.place, len(decoded.images), check_number)
    labels = None if source.labels is None else source.labels[decoded.good_rows()]
    return Pictures(decoded.images, labels, source.class_names, decoded.digests, decoded.sha256, report)


def _make_report(source: Source, decoded: Decoded) -> dict[str, Any]:
    """Say what became of every file of a source."""
    _, inverse, counts = np.unique(decoded.digests, return_inverse=True, return_counts=True)
    rows = decoded.good_rows()
    copies: dict[int, list[str]] = defaultdict(list)
    for i in np.flatnonzero(counts[inverse] > 1):
        copies[int(decoded.digests[i])].append(source.path(int(rows[i])))
    return {
        "source": source.place,
        "num_images": len(rows),
        "num_listed": source.size,
        "bad_images": [{"path": source.path(i), "reason": reason} for i, reason in decoded.bad.items()],
        "duplicates": list(copies.values()),
        "not_listed": source.not_listed,
        "ignored_suffixes": source.ignored_suffixes,
        "notes": source.notes,
        **report_of(decoded.findings, source.path),
    }


def _check_number(place: str, num_images: int, check_number: Callable[[str, int], None] | None) -> None:
    if num_images == 0:
        raise UserError(f"{place} holds no images")
    if check_number is not None:
        check_number(place, num_images)


def _check_bad(report: dict[str, Any], limit: float, report_path: Path | None) -> None:
    """Warn of what is left out, and raise a UserError if the bad images are too many."""
    bad, total, place = report["bad_images"], report["num_listed"], report["source"]
    in_full = f"; all are listed in {report_path}" if report_path else ""
    unknown = report["unknown_range"]
    if unknown is not None and unknown["num_images"] / total > limit:
        low, high = unknown["lowest"], unknown["highest"]
        raise UserError(
            f"{unknown['num_images']} of {total} images of {place} hold numbers of which nothing says what is black "
            f"and what is white: they run from {written(low)} to {written(high)}; "
            f"{give_value_range(low, high)}{of_another_kind(report['num_images'])}{in_full}"
        )
    if len(bad) / total > limit:
        cure = f"max_bad_images_fraction is {limit:.2%}; remove or mend them, or raise it"
        if len(bad) == total:
            cure = "mend them"
        named = say_bad((image["path"], image["reason"]) for image in bad)
        raise UserError(
            f"{len(bad)} of {total} images of {place} ({len(bad) / total:.2%}) cannot be decoded, {cure}: "
            f"{named}{in_full}"
        )
    left_out = []
    if bad:
        left_out.append(f"{len(bad)} of {total} images cannot be decoded, such as {bad[0]['path']}")
    if unlisted := [name for name in report["not_listed"] if not unread_kinds([name])]:
        left_out.append(f"{count(len(unlisted), 'image')} in no split, or links to nothing, such as {unlisted[0]}")
    if unread := unread_kinds(report["not_listed"]):
        left_out.append(unread)
    if frames := frames_of(report):
        left_out.append(frames)
    if left_out:
        note(f"left out of {place}: {'; '.join(left_out)}{in_full}")


def to_samples(images: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Turn images into what the network sees.

    Args:
        images: uint8 (batch, height, width, channels), a tensor on any device.

    Returns:
        float32 (batch, channels, height, width) in [-1, 1] on the same device, laid out channels-last.
    """
    pixels = images if isinstance(images, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(images))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
