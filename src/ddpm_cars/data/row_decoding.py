"""Rows of shards become pixels, or reasons why they cannot."""

import itertools
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.data.decoding import decode_square, image_mode
from ddpm_cars.data.findings import Findings, ImageError, frames_of, report_of, say_bad, warnings_of
from ddpm_cars.data.shards import Row, Shards, open_shards
from ddpm_cars.errors import UserError
from ddpm_cars.runtime.console import count, note, warn

logger = logging.getLogger(__name__)
_MIN_READ = 1000  # The fraction of bad images is one of at least so many.


class Decoder:
    """Turns the bytes of a row into pixels. Raises UserError if images cannot have so many channels."""

    def __init__(self, config: TrainingConfig, num_channels: int, shards: Shards):
        self.config = config
        self.mode = image_mode(num_channels)
        self.shape = (config.resolution, config.resolution, num_channels)
        self.num_classes = None if shards.label_column is None else len(shards.class_names)

    def __call__(self, row: Row) -> None:
        """Set the result of a row, and let go of its bytes."""
        row.result, row.image = self._decode(row), None

    def _decode(self, row: Row) -> np.ndarray | str:
        if not row.image:
            return "holds no image"
        if self.num_classes is not None and (row.label is None or not 0 <= row.label < self.num_classes):
            return f"its class is {row.label}, not one of {self.num_classes}"
        try:
            image, _ = decode_square(row.image, self.mode, self.config)
        except ImageError as error:
            return str(error)
        return np.asarray(image).reshape(self.shape)


class BadImages:
    """The images that could not be used so far, each of them once; a UserError if they are too large a fraction."""

    def __init__(self, shards: Shards, max_fraction: float):
        self.shards = shards
        self.max_fraction = max_fraction
        self.reasons: dict[str, str] = {}
        self.num_read = self.num_bad = 0

    def add(self, num_read: int, bad: Sequence[Row]) -> None:
        """Count images that were read, and note the bad ones among them."""
        self.num_read += num_read
        self.num_bad += len(bad)
        self.reasons.update((f"{self.shards.names[row.shard]}, row {row.number}", str(row.result)) for row in bad)
        if self.num_bad > self.max_fraction * max(self.num_read, _MIN_READ):
            cure = "mend them" if self.num_bad == self.num_read else "mend them or raise it"
            raise UserError(
                f"{self.num_bad} of the first {self.num_read} images cannot be used, more than "
                f"max_bad_images_fraction, {self.max_fraction}, allows: {say_bad(self.reasons.items())}; {cure}"
            )


def measure(config: TrainingConfig, num_channels: int, num_images: int = 256) -> dict[str, float]:
    """Measure what at most the first `num_images` of the split cost in storage, and in time on one core.

    Values and colours that a person should know of are warned of, and frames that are left out.

    Raises UserError if there are no such shards, or they begin without an image.
    """
    shards = open_shards(replace(config, class_conditional=False), config.split)
    findings, mode = Findings(), image_mode(num_channels)
    rows = list(itertools.islice(shards.every_row(), num_images))
    num_bytes = sum(len(row.image or b"") for row in rows)
    if num_bytes == 0:
        raise UserError(
            f"the first shards of {config.dataset_name} hold no images; where they hold paths, write them with the "
            "bytes of the files instead"
        )
    start = time.perf_counter()
    for row in rows:
        with suppress(ImageError):
            findings.add((row.shard, row.number), decode_square(row.image or b"", mode, config)[1])
    seconds = time.perf_counter() - start
    report = report_of(findings.summary(), lambda row: f"{shards.names[row[0]]}, row {row[1]}")
    report["source"] = f"the first {count(len(rows), 'image')} of {config.dataset_name}"
    for line in warnings_of(report):
        warn(line)
    if frames := frames_of(report):
        note(f"left out of {report['source']}: {frames}")
    return {
        "bytes_per_image": num_bytes / len(rows),
        "decode_milliseconds_per_image": 1000 * seconds / len(rows),
    }


def first_images(
    config: TrainingConfig, num_channels: int, split: str, n: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read at most the first n good images of a split, and log the bad ones before them.

    Returns uint8 (images, H, W, C), and the classes, int64 (images,), or None without `class_conditional`. Raises
    UserError if there is no such split, it has other classes than `config.split`, or too many images cannot be used.
    """
    shards = open_shards(config, split)
    known = open_shards(config, config.split).class_names if config.class_conditional else ()
    if known[: len(shards.class_names)] != shards.class_names:
        raise UserError(
            f"split {split} has the classes {', '.join(shards.class_names)}, and {config.split} has "
            f"{', '.join(known)}; they must be the same"
        )
    decode, bad = Decoder(config, num_channels, shards), BadImages(shards, config.max_bad_images_fraction)
    images, labels = [], []
    for row in shards.every_row():
        decode(row)
        if isinstance(row.result, np.ndarray):
            bad.add(1, [])
            images.append(row.result)
            labels.append(row.label)
        else:
            logger.warning("left out: %s, row %d (%s)", shards.names[row.shard], row.number, row.result)
            bad.add(1, [row])
        if len(images) == n:
            break
    if not images:
        raise UserError(f"split {split} of {config.dataset_name} holds no image that can be used")
    return np.stack(images), np.array(labels, np.int64) if config.class_conditional else None
