"""Bands of spatial frequency, for which the variance "spectral" has a noise each."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ddpm_cars.portable.device_tables import DeviceTable


def dct_matrix(size: int) -> np.ndarray:
    """Return the orthonormal DCT-II of `size` points, float64 (size, size): row k is the cosine of k half periods."""
    k, n = np.mgrid[:size, :size]
    matrix = np.sqrt(2 / size) * np.cos(np.pi * (n + 0.5) * k / size)
    matrix[0] /= np.sqrt(2)
    return matrix


def band_index(height: int, width: int, band_edges: Any) -> np.ndarray:
    """Number the radial band of every 2-D DCT mode (i, j) by its frequency, sqrt((i/H)^2 + (j/W)^2) / sqrt(2) < 1.

    The edges are B + 1 ascending frequencies from 0 to 1; the result is of integers in [0, B - 1], shape (H, W).
    """
    i, j = np.mgrid[:height, :width]
    # The edges pass through modes: without the allowance, rounding would decide on which side of one they fall.
    radius = np.hypot(i / height, j / width) / np.sqrt(2) * (1 + 1e-9)
    return np.searchsorted(np.asarray(band_edges)[1:-1], radius, side="right")


class BandNoise:
    """What the bands add to white noise: IDCT(offset_std DCT(z)) over space and colour axes.

    Args:
        calibration: What `DDPMCarsScheduler.set_calibration` takes, with bands.
        offset_std: What is added to the standard deviation of the white noise, per timestep, colour axis and band,
            float64 (T, C, B).
    """

    def __init__(self, calibration: Mapping[str, Any], offset_std: np.ndarray):
        height, width = calibration["sample_size"]
        self.sample_shape = (len(calibration["colour_axes"]), height, width)
        self._offset_std = DeviceTable(offset_std)
        self._index = DeviceTable(band_index(height, width, calibration["band_edges"]).ravel())
        self._rows, self._columns = DeviceTable(dct_matrix(height)), DeviceTable(dct_matrix(width))
        self._axes = DeviceTable(np.array(calibration["colour_axes"], dtype=np.float64))

    def __call__(self, timestep: int | torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return what is to be added to the scaled white noise.

        Args:
            timestep: A number, or an integer tensor of shape () or (batch,).
            noise: z ~ N(0, I), shape (batch, C, ..., H, W), float32 or wider.

        Raises:
            ValueError: If the calibration is one of samples of another shape.
        """
        device, dtype = noise.device, noise.dtype
        if noise.ndim < 4 or (noise.shape[1], *noise.shape[-2:]) != self.sample_shape:
            raise ValueError(
                f"The sample has shape {tuple(noise.shape)}, but 'spectral' was calibrated for (channels, height, "
                f"width) = {self.sample_shape}: calibrate again at this size, or sample with 'analytic'."
            )
        if isinstance(timestep, torch.Tensor):
            band_std = self._offset_std.rows(timestep, device)
        else:
            band_std = self._offset_std.on(device)[int(timestep)][None]
        std = band_std.index_select(-1, self._index.on(device)).to(dtype)
        std = std.view(*std.shape[:2], *[1] * (noise.ndim - 4), *noise.shape[-2:])
        rows, columns, axes = (table.on(device, dtype) for table in (self._rows, self._columns, self._axes))
        modes = std * (rows @ _mix_channels(axes, noise) @ columns.T)
        return _mix_channels(axes.T, rows.T @ modes @ columns)

    def move_to(self, device: torch.device) -> None:
        """Bring the tables to a device before they are needed."""
        for table in (self._offset_std, self._index, self._rows, self._columns, self._axes):
            table.on(device)


def _mix_channels(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (matrix @ x.flatten(2)).view(x.shape)
