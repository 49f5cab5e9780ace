"""The real images that a model is compared with, and a set of images beside them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ddpm_cars.metrics.distances import Moments
from ddpm_cars.metrics.neighbours import precision_recall_density_coverage
from ddpm_cars.metrics.spectrum import contrast, radial_spectrum

_NUM_NEIGHBOURS = 5


@dataclass(frozen=True, eq=False)
class Reference:
    """Real images to compare with.

    Attributes:
        features: (M, D), floating point, on the CPU: the features of some of the real images.
        moments: Mean and scatter of these features.
        frequency: float64 (R,), the middle of every band of spatial frequency, 0 to 1.
        power: float64 (R,), variance of the lightness of all real images in these bands, in grey levels squared.
        contrast: Standard deviation of the pixels of all real images, in grey levels.
    """

    features: torch.Tensor
    moments: Moments
    frequency: np.ndarray
    power: np.ndarray
    contrast: float

    @classmethod
    def of(cls, features: torch.Tensor, images: np.ndarray) -> "Reference":
        """Measure real images.

        Args:
            features: (M, D), floating point and finite, on the CPU, M 2 or more.
            images: uint8 (N, H, W, C), N 2 or more; those with features and any others.

        Raises:
            ValueError: If `features` is not of that shape or holds values that are not finite.
        """
        frequency, power = radial_spectrum(images)
        return cls(features, Moments.of(features), frequency, power, contrast(images))


@dataclass(frozen=True, eq=False)
class Comparison:
    """A set of images, generated or real, beside the real images that it is compared with.

    Attributes:
        reference: The real images.
        images: uint8 (N, H, W, C), N from 40 to M.
        features: (N, D), floating point and finite, on the CPU: the features of `images`.
        seed: Chooses the subsets of metrics that draw subsets, 0 or more.
    """

    reference: Reference
    images: np.ndarray
    features: torch.Tensor
    seed: int

    @cached_property
    def power(self) -> np.ndarray:
        """Variance of the lightness in the bands of `Reference.frequency`, float64 (R,), in grey levels squared."""
        return radial_spectrum(self.images)[1]

    @cached_property
    def neighbourhoods(self) -> dict[str, float]:
        """Precision, recall, density and coverage, which share the distances to nearest neighbours."""
        # All four depend on the numbers of images, so both sets are of one size.
        same_number = self.reference.features[: len(self.features)]
        return precision_recall_density_coverage(same_number, self.features, _NUM_NEIGHBOURS)
