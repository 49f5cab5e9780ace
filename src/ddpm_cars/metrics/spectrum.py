"""The contrast of a set of images, and its power at every spatial frequency."""

import numpy as np
import torch

from ddpm_cars.diffusion.calibration import band_edges
from ddpm_cars.scheduling_ddpm_cars import band_index, dct_matrix

_CHUNK_IMAGES = 256


def contrast(images: np.ndarray) -> float:
    """Return the standard deviation of all values of some images, uint8 (N, H, W, C), in grey levels."""
    num_values = images.size
    mean = sum(int(part.sum(dtype=np.int64)) for part in images) / num_values
    squares = sum(float(np.square(part.astype(np.float64) - mean).sum()) for part in images)
    return float(np.sqrt(squares / num_values))


def radial_spectrum(images: np.ndarray, num_bands: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance of the lightness in radial bands of the 2-D DCT: the mean over the modes of each band.

    The DCT is taken rather than the Fourier transform because images do not continue at the opposite edge. Lightness
    is the mean of the channels of `images`, uint8 (N, H, W, C), in grey levels. Returns the mean frequency of every
    band, from 0 (the mean of an image) to nearly 1 (the diagonal's finest pattern), and the variance there.
    """
    height, width = images.shape[1:3]
    rows, columns = (torch.from_numpy(dct_matrix(size)) for size in (height, width))
    total = squares = torch.zeros(height, width, dtype=torch.float64)
    for start in range(0, len(images), _CHUNK_IMAGES):
        # About mid-grey, so that the difference of squares keeps its digits.
        lightness = torch.from_numpy(images[start : start + _CHUNK_IMAGES].mean(-1, dtype=np.float64) - 127.5)
        modes = rows @ lightness @ columns.T
        total, squares = total + modes.sum(0), squares + modes.square().sum(0)
    variance = ((squares - total.square() / len(images)) / (len(images) - 1)).clamp(min=0).flatten().numpy()
    index = band_index(height, width, band_edges(height, width, num_bands)).ravel()
    i, j = np.mgrid[:height, :width]
    frequency = (np.hypot(i / height, j / width) / np.sqrt(2)).ravel()
    num_modes = np.bincount(index)
    return np.bincount(index, frequency) / num_modes, np.bincount(index, variance) / num_modes


def spectrum_error_octaves(power: np.ndarray, real_power: np.ndarray) -> float:
    """Return the mean over the bands of |log2(power / real_power)|: 0 for the same spectrum, 1 for half or twice."""
    # Images that are all alike have no power anywhere; an eight-bit image cannot show less than this.
    floor = 1e-6
    ratio = np.maximum(power, floor) / np.maximum(real_power, floor)
    return float(np.abs(np.log2(ratio)).mean())
