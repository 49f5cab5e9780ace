"""The metrics of generated images. To add one, add its record to METRICS: everything else reads the records."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from ddpm_cars.metrics.distances import Moments, frechet_distance_with_error, kernel_distance
from ddpm_cars.metrics.neighbours import precision_recall_density_coverage_with_errors
from ddpm_cars.metrics.spectrum import contrast, radial_spectrum, spectrum_error_octaves

_NUM_NEIGHBOURS = 5
_MIN_NEIGHBOUR_IMAGES = 300
"""Of fewer images, the error of recall exceeds 0.05 where it is not near 0 (see docs/evaluation.md)."""


@dataclass(frozen=True, eq=False)
class Reference:
    """The real images that a model is compared with, measured."""

    features: torch.Tensor  # (M, D) on the CPU, of some of the real images
    moments: Moments  # of these features
    frequency: np.ndarray  # float64 (R,), the middle of every band of spatial frequency, 0 to 1
    power: np.ndarray  # float64 (R,), variance of the lightness of all real images there, in grey levels squared
    contrast: float  # standard deviation of the pixels of all real images, in grey levels

    @classmethod
    def of(cls, features: torch.Tensor, images: np.ndarray) -> "Reference":
        """Measure real images, uint8 (N, H, W, C), of which some have features (M, D)."""
        frequency, power = radial_spectrum(images)
        return cls(features, Moments.of(features), frequency, power, contrast(images))


@dataclass(frozen=True, eq=False)
class Comparison:
    """A set of images, generated or real, beside the real images that it is compared with."""

    reference: Reference
    images: np.ndarray  # uint8 (N, H, W, C), N from 40 to M
    features: torch.Tensor  # (N, D) on the CPU, of `images`
    seed: int  # of the subsets of metrics that draw subsets

    @cached_property
    def power(self) -> np.ndarray:
        """Variance of the lightness in the bands of `Reference.frequency`, float64 (R,), in grey levels squared."""
        return radial_spectrum(self.images)[1]

    @cached_property
    def neighbourhoods(self) -> dict[str, tuple[float, float]]:
        """Precision, recall, density and coverage with errors, which share the distances to nearest neighbours."""
        # All four depend on the numbers of images, so both sets are of one size.
        same_number = self.reference.features[: len(self.features)]
        return precision_recall_density_coverage_with_errors(same_number, self.features, _NUM_NEIGHBOURS)


@dataclass(frozen=True)
class Quantity:
    """A figure that is measured, and what a reader needs to know of it."""

    key: str  # its name in metrics.json
    name: str  # its name in a sentence or a heading
    short_name: str  # its name where there is room for a few letters only
    best: Literal["lower", "higher", "at 1"]  # which values are best
    meaning: str  # one sentence that says what is measured
    error_kind: Literal["std_error", "std"]  # whether its error is a standard error or deviation, if one is measured

    @property
    def error_key(self) -> str:
        """The name of its error in metrics.json."""
        return f"{self.key}_{self.error_kind}"

    def sort_key(self, value: float) -> float:
        """Return a number that is lower the better a value is."""
        return {"lower": value, "higher": -value, "at 1": abs(value - 1)}[self.best]


@dataclass(frozen=True)
class Metric(Quantity):
    """A quantity of a set of images beside real ones.

    Attributes:
        compute: Returns the value, or the value and its error.
        min_images: Of fewer images it is neither measured nor shown, because it says too little of the model.
    """

    compute: Callable[[Comparison], float | tuple[float, float]]
    min_images: int = 0


# fmt: off
METRICS = (
    Metric("frechet_distance", "Fréchet distance", "FD", "lower",
           "How far apart the features of generated and real images are, taken as two Gaussians.", "std_error",
           lambda c: frechet_distance_with_error(c.features, c.reference.moments)),
    Metric("kernel_distance", "Kernel distance", "kernel", "lower",
           "How far apart the features of both are, whatever their distribution.", "std",
           lambda c: kernel_distance(c.features, c.reference.features, seed=c.seed)),
    Metric("contrast", "Contrast", "contr", "at 1",
           "The standard deviation of generated pixels divided by that of real ones.", "std_error",
           lambda c: contrast(c.images) / c.reference.contrast),
    Metric("spectrum_error_octaves", "Spectrum error", "spec", "lower",
           "How far the strength of details of every size is from that of real images, in octaves.", "std_error",
           lambda c: spectrum_error_octaves(c.power, c.reference.power)),
    Metric("precision", "Precision", "prec", "higher",
           "The share of generated images that lie among real ones.", "std_error",
           lambda c: c.neighbourhoods["precision"], _MIN_NEIGHBOUR_IMAGES),
    Metric("recall", "Recall", "rec", "higher",
           "The share of real images that lie among generated ones.", "std_error",
           lambda c: c.neighbourhoods["recall"], _MIN_NEIGHBOUR_IMAGES),
    Metric("density", "Density", "dens", "higher",
           "How many real images surround a generated one; about 1 if both are alike.", "std_error",
           lambda c: c.neighbourhoods["density"], _MIN_NEIGHBOUR_IMAGES),
    Metric("coverage", "Coverage", "cov", "higher",
           "The share of real images that have a generated one close by.", "std_error",
           lambda c: c.neighbourhoods["coverage"], _MIN_NEIGHBOUR_IMAGES),
)
"""Every metric, in the order of tables. The first one stands for all where there is room for one only."""
# fmt: on
FRECHET_DISTANCE = METRICS[0]

BITS_PER_DIMENSION = Quantity(
    *("bpd", "Bits per dimension", "bpd", "lower"),
    *("How many bits a pixel value takes at most if the model compresses images; 8 without compression.", "std_error"),
)
"""The variational bound of held-out images: a quantity of the model and not of the images that it generates."""


def measure(comparison: Comparison) -> dict[str, float]:
    """Compute every metric that there are images enough for: values and errors by the keys of metrics.json."""
    figures: dict[str, float] = {}
    for metric in METRICS:
        if len(comparison.images) >= metric.min_images:
            found = metric.compute(comparison)
            value_and_error = found if isinstance(found, tuple) else (found,)
            figures |= zip((metric.key, metric.error_key), value_and_error, strict=False)
    return figures
