"""The bands of spatial frequency in which calibration measures images, and the colour axes that it does so on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ddpm_cars.runtime.files import rounded
from ddpm_cars.scheduling_ddpm_cars import band_index, dct_matrix


def dct(x: torch.Tensor) -> torch.Tensor:
    """Return the orthonormal DCT-II of float64 images over their last two dimensions."""
    rows, columns = (torch.from_numpy(dct_matrix(size)) for size in x.shape[-2:])
    return rows @ x @ columns.T


class Bands:
    """Radial bands of the 2-D DCT on the decorrelated colour axes of some images, floating point (N, C, H, W)."""

    def __init__(self, images: torch.Tensor, num_bands: int):
        height, width = self.sample_size = list(images.shape[2:])
        channels = images.double().transpose(0, 1).flatten(1)
        self.axes = torch.linalg.eigh(torch.cov(channels, correction=0).reshape(len(channels), -1))[1].T.flip(0)
        self.edges = band_edges(height, width, num_bands)
        self.index = band_index(height, width, self.edges).ravel()
        self.data_variance = self.mean(self.modes(images.double()).var(0, correction=0))

    def modes(self, x: torch.Tensor) -> torch.Tensor:
        """Return the DCT modes of float64 images on the colour axes."""
        return torch.einsum("ac,nchw->nahw", self.axes, dct(x))

    def mean(self, values: torch.Tensor) -> np.ndarray:
        """Average one value per mode, (C, H, W), over every band, (C, B)."""
        sums = [np.bincount(self.index, row, len(self.edges) - 1) for row in values.flatten(1).numpy()]
        return np.stack(sums) / np.bincount(self.index, minlength=len(self.edges) - 1)

    def description(self) -> Mapping[str, Any]:
        """Return the part of a calibration that says what the bands are."""
        return {
            "sample_size": self.sample_size,
            "band_edges": self.edges.tolist(),
            "colour_axes": self.axes.tolist(),
            "band_variance": rounded(self.data_variance),
        }


def band_edges(height: int, width: int, num_bands: int) -> np.ndarray:
    """Return ascending edges of radial bands from 0 to 1: the DC mode alone, then evenly spaced square roots.

    Natural images change fastest at low frequencies, which square roots resolve. No band is without modes: small
    images, which have fewer distinct frequencies, have fewer than `num_bands`, 2 or more.
    """
    lowest = 1 / max(height, width) / np.sqrt(2)
    edges = np.concatenate([[0], np.linspace(np.sqrt(lowest / 2), 1, num_bands) ** 2])
    occupied = np.unique(band_index(height, width, edges))
    return np.append(edges[occupied], 1.0)
