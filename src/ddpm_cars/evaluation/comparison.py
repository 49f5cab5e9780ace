"""What tells drawn images from real ones, and which of them are copies."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ddpm_cars.evaluation.distances import Moments, frechet_distance_with_error, kernel_distance
from ddpm_cars.evaluation.neighbours import near_copies, nearest, precision_recall_density_coverage
from ddpm_cars.evaluation.spectrum import contrast, radial_spectrum, spectrum_error_octaves
from ddpm_cars.runtime.files import rounded

_NUM_NEIGHBOURS = 5

# Twice what is shown, as a mirrored image is often next to the one that it mirrors.
_NUM_NEAREST = 6


@dataclass(frozen=True, eq=False)
class Reference:
    """Real images to compare with.

    Attributes:
        features: (M, D), floating point, of some of them.
        moments: Of these features.
        frequency: float64 (R,), the middle of every band of spatial frequency.
        power: float64 (R,), of all of them, by these bands.
        contrast: Standard deviation of the pixels of all of them.
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
            images: uint8 (N, H, W, C); those with features and any others.
        """
        frequency, power = radial_spectrum(images)
        return cls(features, Moments.of(features), frequency, power, contrast(images))

    def compare(self, images: np.ndarray, features: torch.Tensor, seed: int) -> tuple[dict[str, float], list[float]]:
        """Compute the figures of other images, drawn or real.

        Args:
            images: uint8 (N, H, W, C), N from 40 to M.
            features: (N, D), of these.
            seed: Decides the subsets of the kernel distance.

        Returns:
            The entry "metrics" of metrics.json, and their power by the bands of `frequency`.
        """
        distance, error = frechet_distance_with_error(features, self.moments)
        kernel, kernel_std = kernel_distance(features, self.features, seed=seed)
        # As many of both, on which all four depend.
        same_number = self.features[: len(features)]
        _, power = radial_spectrum(images)
        figures = {
            "frechet_distance": distance,
            "frechet_distance_std_error": error,
            "kernel_distance": kernel,
            "kernel_distance_std": kernel_std,
            **precision_recall_density_coverage(same_number, features, _NUM_NEIGHBOURS),
            "contrast": contrast(images) / self.contrast,
            "spectrum_error_octaves": spectrum_error_octaves(power, self.power),
        }
        return {name: rounded(value) for name, value in figures.items()}, rounded(power)


def look_for_copies(
    drawn: Mapping[str, torch.Tensor], training: Mapping[str, torch.Tensor], unseen: Mapping[str, torch.Tensor] | None
) -> tuple[dict[str, dict[str, float]], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Find the nearest training images of drawn ones, and tell copies from likenesses.

    Args:
        drawn: By space ("features", "pixels"), (N, D), floating point, on the CPU.
        training: Likewise, (M, D), M 6 or more.
        unseen: Likewise, (L, D), real images that training has not seen; None tells no copies from likenesses.

    Returns:
        By space, the share of near copies, what is expected of a model that copies nothing, and the distance that
        makes one, empty without `unseen`; and distances (N, 6), ascending, with indices (N, 6) into `training`.
    """
    found: dict[str, Any] = {}
    neighbours = {}
    for space, vectors in drawn.items():
        if unseen is None:
            distances, indices = nearest(vectors, training[space], _NUM_NEAREST)
        else:
            copies = near_copies(vectors, training[space], unseen[space], num_neighbours=_NUM_NEAREST)
            found[space] = {name: rounded(getattr(copies, name)) for name in ("share", "expected", "threshold")}
            distances, indices = copies.distances, copies.indices
        neighbours[space] = distances.numpy(), indices.numpy()
    return found, neighbours
