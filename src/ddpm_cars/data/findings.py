"""What decoding finds in images and leaves out of them, of one image and of a whole set."""

from array import array
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddpm_cars.runtime.console import count

# The range of a set is that of most of its images: a few with a stamp or a mark on them do not count.
_MOST = 0.95
# Images that use at most so much of black to white are warned of: 14 bits in files of 16.
_LITTLE = 0.25


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
    """Return the advice to take these values as black and white. A single value has no black and white."""
    return f"give --value_range {written(low)} {written(high)}" if low < high else "give --value_range LOW HIGH"


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


class Findings:
    """What was found in a set of images, without memory for every one of them but a few numbers."""

    def __init__(self) -> None:
        self._ranges: dict[tuple[float, float], tuple[array, array]] = defaultdict(lambda: (array("d"), array("d")))
        self._unknown: list[tuple[float, float]] = []
        self._num_values = self._num_clipped = self._num_images_clipped = self._num_converted = 0
        self._profile_faults: list[tuple[Any, str]] = []
        self._frames: list[tuple[Any, int]] = []

    def add(self, i: Any, found: Found) -> None:
        """Count image i, a number or another name of it."""
        lows, highs = self._ranges[found.black_to_white]
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
                _range_of_most(white, np.array(lows), np.array(highs)) for white, (lows, highs) in self._ranges.items()
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


def _range_of_most(black_to_white: tuple[float, float], lows: np.ndarray, highs: np.ndarray) -> dict[str, Any]:
    low = float(np.quantile(lows, 1 - _MOST, method="lower"))
    high = float(np.quantile(highs, _MOST, method="higher"))
    return {
        "black_to_white": black_to_white,
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
        "values": for the images with the same "black_to_white", "num_images", the "lowest" and the "highest" value,
        and the same three for "most" of them, without the outermost twentieth; "unknown_range": the same three for
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
    lines = [line for values in report["values"] if (line := _warning_of_values(values, place))]
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


def _warning_of_values(values: dict[str, Any], place: str) -> str:
    """Return a warning if most images use so little of black to white that few levels are left; "" if not."""
    black, white = values["black_to_white"]
    most = values["most"]
    low, high = most["lowest"], most["highest"]
    # Images of one colour alone say nothing.
    if low == high or high - low > _LITTLE * (white - black):
        return ""
    num_levels = max(1, round(256 * (high - low) / (white - black)))
    return (
        f"{most['num_images']} of {count(values['num_images'], 'image')} of {place} hold values from {written(low)} "
        f"to {written(high)}, where {written(black)} is black and {written(white)} is white: about "
        f"{num_levels} of 256 levels are used; {give_value_range(low, high)} to use all of them"
    )
