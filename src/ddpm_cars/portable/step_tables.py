"""The numbers that noising and sampling multiply images with, in float64 and at hand on every device.

Equation numbers refer to Ho et al. 2020, https://arxiv.org/abs/2006.11239.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from ddpm_cars.portable.bands import BandNoise
from ddpm_cars.portable.device_tables import DeviceTable, edit_count, is_edited
from ddpm_cars.portable.variances import (
    CALIBRATED_VARIANCES,
    calibrated_band_variance,
    calibrated_std,
    calibrated_x_0_variance,
    needed_calibration,
    posterior,
    posterior_of_chain,
)


class NoiseLevels:
    """The noise levels of a scheduler, which never change: another schedule has other ones.

    Args:
        alpha_bar: In [0, 1], float64 (T,).

    Attributes:
        scales: sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t) of every timestep, (2, T).
    """

    def __init__(self, alpha_bar: np.ndarray):
        self.alpha_bar = alpha_bar
        with np.errstate(all="ignore"):
            self.scales = DeviceTable(np.sqrt(np.stack([alpha_bar, 1 - alpha_bar])))

    @cached_property
    def posterior(self) -> DeviceTable:
        """The rows that `DDPMCarsScheduler.posterior_at` returns, (3, T)."""
        # The chain of sampling descends.
        chain = posterior_of_chain(self.alpha_bar[::-1])
        rows = chain.x_0_weight, np.log(chain.beta), np.log(chain.beta_tilde)
        return DeviceTable(np.stack(rows)[:, ::-1].copy())


class Step(NamedTuple):
    """What the reverse step t -> s needs: numbers for one timestep, float64 arrays or tensors for many."""

    sqrt_alpha_bar: Any
    one_over_sqrt_alpha_bar: Any
    sqrt_one_minus_alpha_bar: Any
    x_0_weight: Any
    x_t_weight: Any
    beta_variance: Any
    beta_tilde_variance: Any
    noise_std: Any  # of the variances that are not learned; 0 where t has no successor
    successor: Any  # s, or -1


class ChainSettings(NamedTuple):
    """What the steps of a chain follow from, as the scheduler and its config have it."""

    levels: NoiseLevels
    timesteps: torch.Tensor
    variance_type: str
    calibration: Mapping[str, Any] | None
    max_last_noise_grey_levels: float | None
    num_train_timesteps: int


class StepTables:
    """The coefficients of every step of one chain, which never change: threads may share them.

    Args:
        settings: Of the chain.
        chosen: The values of `settings.timesteps` where they are known; None reads them off their device.

    Attributes:
        noise_std: sigma_t of every step, float64 (n,), 0 for the last one; of a learned variance that of
            "fixed_small", and of "spectral" that of "analytic".
        band_noise: What "spectral" adds to that, else None.

    Raises:
        ValueError: If the variance needs a calibration that is missing or does not fit.
    """

    def __init__(self, settings: ChainSettings, chosen: np.ndarray | None = None):
        self._settings, self._edit_count = settings, edit_count(settings.timesteps)
        t = settings.timesteps.cpu().numpy() if chosen is None else chosen
        self.band_noise: BandNoise | None = None
        steps = self._make_steps(t, np.append(t[1:], -1))
        self.noise_std: np.ndarray = steps.noise_std
        rows = zip(*(column.tolist() for column in steps), strict=True)
        self._numbers = {i: Step(*row) for i, row in zip(t.tolist(), rows, strict=True)}
        # The same for timesteps that live on a device.
        self._table = DeviceTable(self._scattered(t, np.stack(steps, axis=1)))

    def _make_steps(self, t: np.ndarray, s: np.ndarray) -> Step:
        variance_type, alpha_bar = self._settings.variance_type, self._settings.levels.alpha_bar
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
                one_over_sqrt_alpha_bar=1 / np.sqrt(alpha_bar_t),
                sqrt_one_minus_alpha_bar=np.sqrt(1 - alpha_bar_t),
                x_0_weight=x_0_weight,
                x_t_weight=x_t_weight,
                beta_variance=beta,
                beta_tilde_variance=beta_tilde,
                noise_std=noise_std,
                successor=s,
            )

    def _calibrated_std(self, t: np.ndarray, x_0_weight: np.ndarray, beta_tilde: np.ndarray) -> np.ndarray:
        levels, _, variance_type, calibration, max_grey_levels, num_train_timesteps = self._settings
        calibration = needed_calibration(calibration, variance_type, levels.alpha_bar, num_train_timesteps)
        of_step = x_0_weight, beta_tilde, max_grey_levels
        std = calibrated_std(calibrated_x_0_variance(calibration, levels.alpha_bar, t), *of_step)
        if variance_type == "spectral":
            band_std = calibrated_std(calibrated_band_variance(calibration, levels.alpha_bar, t), *of_step)
            # Kept as what the bands add to the white noise, so that equal bands are "analytic" to the bit.
            self.band_noise = BandNoise(calibration, self._scattered(t, band_std - std[:, None, None]))
        return std

    def _scattered(self, t: np.ndarray, rows: np.ndarray) -> np.ndarray:
        # NaN marks timesteps that were not chosen: a lookup on a device cannot raise without waiting for it.
        table = np.full((self._settings.num_train_timesteps, *rows.shape[1:]), np.nan)
        table[t] = rows
        return table

    def are_of(self, settings: ChainSettings) -> bool:
        """Tell whether they are still those of some settings: a config and timesteps may be changed in place."""
        same = all(a is b for a, b in zip(settings, self._settings, strict=True))
        return same and not is_edited(settings.timesteps, self._edit_count)

    def at(self, timestep: Any, ndim: int, device: torch.device | None = None) -> Step:
        """Return the coefficients of the step that starts at a timestep, for samples of `ndim` dimensions.

        They are numbers where that needs no waiting for a device, else float64 tensors. A ValueError says which
        timestep on the CPU is not one of the chain.
        """
        timestep = self._as_number(timestep)
        if not isinstance(timestep, torch.Tensor):
            self._check(timestep)
            return self._numbers[timestep]
        rows = self._table.rows(timestep, device or timestep.device)
        return Step(*rows.T.reshape(-1, *timestep.shape, *[1] * (ndim - 1 if timestep.ndim else 0)))

    def _as_number(self, timestep: Any) -> Any:
        """Return a timestep that all samples share as a number, if that needs no waiting for its device."""
        if not isinstance(timestep, torch.Tensor):
            return timestep
        # Reading it would wait for its device, or break a compiled graph.
        if timestep.device.type != "cpu" or torch.compiler.is_compiling():
            return timestep
        if timestep.ndim == 0:
            return timestep.item()
        for number in timestep.flatten().tolist():
            self._check(number)
        return timestep

    def _check(self, number: float) -> None:
        if number not in self._numbers:
            chosen = list(self._numbers)
            raise ValueError(
                f"timestep {number} is not one of the {len(chosen)} that sampling visits ({chosen[0]} ... "
                f"{chosen[-1]}); choose them with set_timesteps."
            )

    def move_to(self, device: torch.device) -> None:
        """Bring the tables to a device before they are needed."""
        self._table.on(device)
        if self.band_noise is not None:
            self.band_noise.move_to(device)
