"""The numbers that noising and sampling multiply images with, in float64 and at hand on every device."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from ddpm_cars.portable.variances import (
    CALIBRATED_VARIANCES,
    calibrated_band_variance,
    calibrated_std,
    calibrated_x_0_variance,
    check_calibration,
    posterior,
    posterior_of_chain,
)


class DeviceTable:
    """A table that never changes, with a copy on every device and in every dtype that it was asked for."""

    def __init__(self, values: np.ndarray):
        self._values, self._num_rows = torch.from_numpy(values), len(values)
        self._copies: dict[tuple[torch.device, torch.dtype | None], torch.Tensor] = {}

    def on(self, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return the table on a device, where it stays, in its own dtype or another."""
        key = (device, dtype)
        if key not in self._copies:
            # Apple's devices have no float64.
            narrow = device.type == "mps" and self._values.dtype == torch.float64
            self._copies[key] = self._values.to(device, dtype or (torch.float32 if narrow else self._values.dtype))
        return self._copies[key]

    def rows(self, index: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Return some rows, numbered by integers of any shape, without waiting for a device to say which."""
        # Indexing with brackets would read a 0-d index as a number.
        return self.on(device).index_select(0, index.to(device).long().flatten())

    def columns(self, timesteps: torch.Tensor, sample: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the columns of some timesteps, a tensor per row, shaped to multiply a sample, in float32 or wider."""
        if timesteps.is_floating_point():
            raise ValueError(f"timesteps are {timesteps.dtype}; noise levels are numbered by integers: use .long().")
        device = sample.device
        table = self.on(device, torch.promote_types(sample.dtype, torch.float32))
        chosen = table.index_select(1, timesteps.to(device).long().flatten())
        return chosen.view(self._num_rows, -1, *[1] * (sample.ndim - 1)).unbind()


def edit_count(tensor: torch.Tensor) -> int | None:
    """Return a number that changes whenever a tensor is written to, or None where torch does not count."""
    return None if tensor.is_inference() else tensor._version


def is_edited(tensor: torch.Tensor, count: int | None) -> bool:
    """Tell whether a tensor was written to since `edit_count` gave a number."""
    # A compiled program is made for the values that it has seen.
    return not torch.compiler.is_compiling() and edit_count(tensor) != count


class NoiseLevels:
    """The noise levels of a scheduler, which never change: another schedule has other ones."""

    def __init__(self, alpha_bar: np.ndarray):
        self.alpha_bar = alpha_bar  # float64 (T,), in [0, 1]
        with np.errstate(all="ignore"):
            # sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), (2, T).
            self.scales = DeviceTable(np.sqrt(np.stack([alpha_bar, 1 - alpha_bar])))

    @cached_property
    def posterior(self) -> DeviceTable:
        """The rows that `DDPMCarsScheduler.posterior_at` returns, (3, T)."""
        # The chain of sampling descends.
        chain = posterior_of_chain(self.alpha_bar[::-1])
        rows = chain.x_0_weight, np.log(chain.beta), np.log(chain.beta_tilde)
        return DeviceTable(np.stack(rows)[:, ::-1].copy())


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

    `offset_std`, float64 (T, C, B), is what they add to its standard deviation per timestep, colour axis and band.
    """

    def __init__(self, calibration: Mapping[str, Any], offset_std: np.ndarray):
        height, width = calibration["sample_size"]
        self.sample_shape = (len(calibration["colour_axes"]), height, width)
        self._offset_std = DeviceTable(offset_std)
        self._index = DeviceTable(band_index(height, width, calibration["band_edges"]).ravel())
        self._rows, self._columns = DeviceTable(dct_matrix(height)), DeviceTable(dct_matrix(width))
        self._axes = DeviceTable(np.array(calibration["colour_axes"], dtype=np.float64))

    def __call__(self, timestep: int | torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return what to add to the scaled white noise for z ~ N(0, I), (batch, C, ..., H, W), float32 or wider.

        The timestep is a number, or an integer tensor of shape () or (batch,). Raises ValueError if the calibration
        is one of samples of another shape.
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


class Step(NamedTuple):
    """What the reverse step t -> s needs: numbers for one timestep, float64 arrays or tensors for many."""

    sqrt_alpha_bar: Any
    sqrt_one_minus_alpha_bar: Any
    one_over_sqrt_alpha_bar: Any
    x_0_weight: Any
    x_t_weight: Any
    beta_variance: Any
    beta_tilde_variance: Any
    noise_std: Any  # of the variances that are not learned; 0 where t has no successor
    successor: Any  # s, or -1


def _made_of(levels: NoiseLevels, timesteps: torch.Tensor, config: Any) -> tuple[Any, ...]:
    of_config = config.variance_type, config.max_last_noise_grey_levels, config.num_train_timesteps
    return levels, timesteps, config.get("_calibration"), *of_config


class StepTables:
    """The coefficients of every step of one chain, which never change: threads may share them.

    `chosen` are the values of `timesteps` where they are known; None reads them off their device. Raises ValueError if
    the variance needs a calibration that is missing or does not fit.
    """

    def __init__(self, levels: NoiseLevels, timesteps: torch.Tensor, config: Any, chosen: np.ndarray | None = None):
        self._alpha_bar, self._config = levels.alpha_bar, config
        self._made_of, self._edit_count = _made_of(levels, timesteps, config), edit_count(timesteps)
        t = timesteps.cpu().numpy() if chosen is None else chosen
        self.band_noise: BandNoise | None = None  # what "spectral" adds to noise_std
        steps = self._make_steps(t, np.append(t[1:], -1))
        # float64 (n,); a learned variance counts as "fixed_small", and "spectral" as "analytic".
        self.noise_std: np.ndarray = steps.noise_std
        rows = zip(*(column.tolist() for column in steps), strict=True)
        self._numbers = {i: Step(*row) for i, row in zip(t.tolist(), rows, strict=True)}
        # The same for timesteps that live on a device.
        self._table = DeviceTable(self._scattered(t, np.stack(steps, axis=1)))

    def _make_steps(self, t: np.ndarray, s: np.ndarray) -> Step:
        variance_type, alpha_bar = self._config.variance_type, self._alpha_bar
        with np.errstate(all="ignore"):
            alpha_bar_t = alpha_bar[t]
            x_0_weight, x_t_weight, beta, beta_tilde = posterior(alpha_bar_t, np.where(s >= 0, alpha_bar[s], 1.0))
            # Its logarithm is taken, hence the bound away from 0.
            beta_tilde = np.maximum(beta_tilde, 1e-20)
            fixed_variance = beta if str(variance_type).startswith("fixed_large") else beta_tilde
            noise_std = np.where(s >= 0, np.sqrt(fixed_variance), 0.0)
            if variance_type in CALIBRATED_VARIANCES:
                noise_std = self._calibrated_std(t, x_0_weight, beta_tilde)
            return Step(
                sqrt_alpha_bar=np.sqrt(alpha_bar_t),
                sqrt_one_minus_alpha_bar=np.sqrt(1 - alpha_bar_t),
                one_over_sqrt_alpha_bar=1 / np.sqrt(alpha_bar_t),
                x_0_weight=x_0_weight,
                x_t_weight=x_t_weight,
                beta_variance=beta,
                beta_tilde_variance=beta_tilde,
                noise_std=noise_std,
                successor=s,
            )

    def _calibrated_std(self, t: np.ndarray, x_0_weight: np.ndarray, beta_tilde: np.ndarray) -> np.ndarray:
        config = self._config
        calibration = check_calibration(config.get("_calibration"), self._alpha_bar, config.num_train_timesteps)
        of_step = x_0_weight, beta_tilde, config.max_last_noise_grey_levels
        std = calibrated_std(calibrated_x_0_variance(calibration, self._alpha_bar, t), *of_step)
        if config.variance_type == "spectral":
            band_std = calibrated_std(calibrated_band_variance(calibration, self._alpha_bar, t), *of_step)
            # Kept as what the bands add to the white noise, so that equal bands are "analytic" to the bit.
            self.band_noise = BandNoise(calibration, self._scattered(t, band_std - std[:, None, None]))
        return std

    def _scattered(self, t: np.ndarray, rows: np.ndarray) -> np.ndarray:
        # NaN marks timesteps that were not chosen: a lookup on a device cannot raise without waiting for it.
        table = np.full((self._config.num_train_timesteps, *rows.shape[1:]), np.nan)
        table[t] = rows
        return table

    def are_of(self, levels: NoiseLevels, timesteps: torch.Tensor, config: Any) -> bool:
        """Tell whether they are still those of all this: the config and timesteps may be changed in place."""
        same = all(a is b for a, b in zip(_made_of(levels, timesteps, config), self._made_of, strict=True))
        return same and not is_edited(timesteps, self._edit_count)

    def at(self, timestep: Any, ndim: int, device: torch.device | None = None) -> Step:
        """Return the coefficients of the step that starts at a timestep, for samples of `ndim` dimensions.

        They are numbers where that needs no waiting for a device, else float64 tensors. A ValueError says which
        timestep on the CPU is not one of the chain.
        """
        is_tensor = isinstance(timestep, torch.Tensor)
        # Reading one would wait for its device, or break a compiled graph.
        if not is_tensor or (timestep.device.type == "cpu" and not torch.compiler.is_compiling()):
            numbers = timestep.flatten().tolist() if is_tensor else [timestep]
            for number in numbers:
                if number not in self._numbers:
                    chosen = list(self._numbers)
                    raise ValueError(
                        f"timestep {number} is not one of the {len(chosen)} that sampling visits ({chosen[0]} ... "
                        f"{chosen[-1]}); choose them with set_timesteps."
                    )
            if not is_tensor or timestep.ndim == 0:
                return self._numbers[numbers[0]]
        rows = self._table.rows(timestep, device or timestep.device)
        return Step(*rows.T.reshape(-1, *timestep.shape, *[1] * (ndim - 1 if timestep.ndim else 0)))

    def move_to(self, device: torch.device) -> None:
        """Bring the tables to a device before they are needed."""
        self._table.on(device)
        if self.band_noise is not None:
            self.band_noise.move_to(device)
