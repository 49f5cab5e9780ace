"""What decoding finds in images and leaves out of them, of one image and of a whole set."""

import itertools
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddpm_cars.runtime.console import count

# The range of a set is that of most of its images: a few with a stamp or a mark on them do not count.
_MOST = 0.95
# Images that use at most so much of black to white are warned of: 14 bits in files of 16.
_LITTLE = 0.25
_NUM_NAMED = 5  # An error names bad images for at most so many reasons.


class ImageError(ValueError):
    """A file that gives no image; the message is the reason, without the name of the file."""


class ValuesError(ImageError):
    """An image whose values run from `low` to `high`, of which nothing says what is black and what is white."""

    def __init__(self, low: float, high: float):
        self.low, self.high = low, high
        self.found = f"its values run from {written(low)} to {written(high)}"  # The reason without the cure.
        super().__init__(f"{self.found}; {give_value_range(low, high)}")


def written(value: float) -> str:
    """Return a value as it is written in a command: whole numbers with all their digits."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:.7g}"


def give_value_range(low: float, high: float) -> str:
    """Return the advice to take these values as black and white. Fractions are rounded outwards to two digits."""
    width = high - low
    if width == 0 or not math.isfinite(width):
        return "give --value_range LOW HIGH"
    if low != int(low) or high != int(high):
        # Powers of ten below 1 are no floating-point numbers, but their inverses are.
        exponent = 1 - math.floor(math.log10(width))
        scale, inverse = float(10 ** max(0, exponent)), float(10 ** max(0, -exponent))
        low, high = (
            end(value * scale / inverse) * inverse / scale for end, value in ((math.floor, low), (math.ceil, high))
        )
    return f"give --value_range {written(low)} {written(high)}"


@dataclass(frozen=True)
class Found:
    """What was found in an image that could be decoded."""

    black_to_white: tuple[float, float]  # The values that were taken as black and white.
    low: float  # The lowest value of the image.
    high: float
    num_values: int
    num_clipped: int = 0  # How many values were outside of black to white.
    is_converted: bool = False  # Whether it had other colours than those of sRGB.
    profile_fault: str = ""  # Why its colour profile could not be used.
    num_frames_left_out: int = 0
    kind: str = "8-bit"  # What kind of numbers its file holds.
    step: int = 1  # How far apart the values are that Pillow tells apart: 257 where it has 8 of 16 bits.


class Findings:
    """What was found in a set of images, without memory for every one of them but a few numbers."""

    def __init__(self) -> None:
        # By the values of black and white, the kind of numbers and their step.
        self._ranges: dict[tuple, tuple[array, array]] = defaultdict(lambda: (array("d"), array("d")))
        self._unknown: list[tuple[float, float]] = []
        self._num_values = self._num_clipped = self._num_images_clipped = self._num_converted = 0
        self._profile_faults: list[tuple[Any, str]] = []
        self._frames: list[tuple[Any, int]] = []

    def add(self, i: Any, found: Found) -> None:
        """Count image i, a number or another name of it."""
        lows, highs = self._ranges[found.black_to_white, found.kind, found.step]
        lows.append(found.low)
        highs.append(found.high)
        self._num_values += found.num_values
        self._num_clipped += found.num_clipped
        self._num_images_clipped += found.num_clipped > 0
        self._num_converted += found.is_converted
        if found.profile_fault:
            self._profile_faults.append((i, found.profile_fault))
        if found.num_frames_left_out:
            self._frames.append((i, found.num_frames_left_out))

    def add_unknown(self, error: ValuesError) -> None:
        """Count an image of which nothing says what is black and white."""
        self._unknown.append((error.low, error.high))

    def summary(self) -> dict[str, Any]:
        """Return what was found as JSON can hold it. Images have the names that `add` was given."""
        unknown = None
        if self._unknown:
            lows, highs = zip(*self._unknown, strict=True)
            unknown = {"num_images": len(lows), "lowest": min(lows), "highest": max(highs)}
        return {
            "values": [
                {"black_to_white": ends, "kind": kind, "step": step, **_range_of_most(np.array(lows), np.array(highs))}
                for (ends, kind, step), (lows, highs) in self._ranges.items()
            ],
            "unknown_range": unknown,
            "clipped": {
                "num_images": self._num_images_clipped,
                "fraction_of_values": self._num_clipped / max(1, self._num_values),
            },
            "num_converted_to_srgb": self._num_converted,
            "profile_faults": self._profile_faults,
            "frames_left_out": self._frames,
        }


def _range_of_most(lows: np.ndarray, highs: np.ndarray) -> dict[str, Any]:
    low = float(np.quantile(lows, 1 - _MOST, method="lower"))
    high = float(np.quantile(highs, _MOST, method="higher"))
    return {
        "num_images": len(lows),
        "lowest": float(lows.min()),
        "highest": float(highs.max()),
        "most": {"num_images": int(np.count_nonzero((lows >= low) & (highs <= high))), "lowest": low, "highest": high},
    }


def report_of(summary: dict[str, Any], path: Callable[[Any], str]) -> dict[str, Any]:
    """Return a summary as it is reported.

    Args:
        summary: What `Findings.summary` has returned.
        path: Returns the path of an image by the name that `Findings.add` was given.

    Returns:
        "values": for the images with the same "black_to_white", "kind" of numbers and "step" between those that Pillow
        tells apart, "num_images", the "lowest" and the "highest" value, and the same three for "most" of them, without
        the outermost twentieth; "unknown_range": the same three for
        the images that need a value_range, or None; "clipped": the "num_images" with values outside of black to
        white, and "fraction_of_values", how large a part of all values these are; "num_converted_to_srgb"; the
        "profile_faults" of images ("path", "reason"), whose colours are taken as they are; and "frames_left_out" of
        animations and stacks ("path", "num_frames").
    """
    faults = [{"path": path(i), "reason": reason} for i, reason in summary["profile_faults"]]
    frames = [{"path": path(i), "num_frames": number} for i, number in summary["frames_left_out"]]
    return {**summary, "profile_faults": faults, "frames_left_out": frames}


def frames_of(report: dict[str, Any]) -> str:
    """Say how many frames are left out; "" if none is."""
    frames = report["frames_left_out"]
    if not frames:
        return ""
    number = sum(image["num_frames"] for image in frames)
    return (
        f"{count(number, 'frame')} behind the first one of {count(len(frames), 'image')}, such as {frames[0]['path']}"
    )


def warnings_of(report: dict[str, Any]) -> list[str]:
    """Return what a person should know about the values and the colours of a set, as sentences."""
    place = report["source"]
    lines = _warnings_of_values(report["values"], place)
    clipped = report["clipped"]
    if clipped["num_images"]:
        share, images = f"{clipped['fraction_of_values']:.2%}", count(clipped["num_images"], "image")
        lines.append(f"{share} of the values of {place}, in {images}, are outside value_range and are clipped")
    if faults := report["profile_faults"]:
        lines.append(
            f"the colour profile of {count(len(faults), 'image')} of {place} cannot be used, such as that of "
            f"{faults[0]['path']}, and their colours are taken as they are: {faults[0]['reason']}"
        )
    return lines


def _warnings_of_values(found: list[dict[str, Any]], place: str) -> list[str]:
    """Return a warning for each part of a set that uses few levels, or of a range for several kinds."""
    numbers: Counter[str] = Counter()
    for values in found:
        numbers[values["kind"]] += values["num_images"]
    if len(numbers) > 1 and len({tuple(values["black_to_white"]) for values in found}) == 1:
        parts = [
            f"{v['num_images']:,} {v['kind']} (from {written(v['lowest'])} to {written(v['highest'])})" for v in found
        ]
        return [
            f"one value_range is taken for several kinds of numbers in images of {place}: {', '.join(parts)}; where "
            "it does not fit some of them, make all one kind"
        ]
    total = numbers.total()
    lines = [_warning_of_values(values, place, total - numbers[values["kind"]]) for values in found]
    return [line for line in lines if line]


def _warning_of_values(values: dict[str, Any], place: str, num_others: int) -> str:
    """Return a warning if most images use so little of black to white that few levels are left; "" if not."""
    black, white = values["black_to_white"]
    most = values["most"]
    low, high = most["lowest"], most["highest"]
    share = (high - low) / (white - black)
    num_levels = max(1, round(min(256 * share, (high - low) / values["step"] + 1)))
    has_upper_bits = values["step"] > 1
    # Images of one colour alone say nothing.
    if low == high or (share > _LITTLE and not (has_upper_bits and num_levels <= _LITTLE * 256)):
        return ""
    cure = f"{give_value_range(low, high)} to use all of them{of_another_kind(num_others)}"
    if has_upper_bits:
        cure = (
            "Pillow reads the upper 8 bits of colours of 16: write them anew with 8 bits, from 0 to 255, or as grey "
            "without transparency"
        )
    return (
        f"{most['num_images']} of {count(values['num_images'], 'image')} of {place} hold values from {written(low)} "
        f"to {written(high)}, where {written(black)} is black and {written(white)} is white: about "
        f"{num_levels} of 256 levels are used; {cure}"
    )


def of_another_kind(num_images: int) -> str:
    """Say that a value_range may not fit so many other images; "" if there is none."""
    return f"; it may not fit {count(num_images, 'image')} of another kind: then make all one kind" * (num_images > 0)


def say_bad(images: Iterable[tuple[str, str]]) -> str:
    """Name images by path and reason, the first one for each of at most five reasons."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for path, reason in images:
        by_reason[reason].append(path)
    said = [
        f"{paths[0]}{f' and {len(paths) - 1:,} more' if len(paths) > 1 else ''} ({reason})"
        for reason, paths in itertools.islice(by_reason.items(), _NUM_NAMED)
    ]
    return "; ".join(said)
