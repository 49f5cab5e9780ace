"""Measure what sampling can know of a trained model: how uncertain x_0 is at every noise level, and how x_T is spread.

Symbols as in `scheduling_ddpm_cars`: Gamma_t of Analytic-DPM (Bao et al. 2022, arXiv:2201.06503) is 1 - eps_mse here.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, SchedulerMixin

from ddpm_cars.diffusion.denoiser import x_0_error
from ddpm_cars.diffusion.seeds import seeded_generator
from ddpm_cars.runtime.console import progress
from ddpm_cars.runtime.files import rounded
from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler, band_index, dct_matrix

logger = logging.getLogger(__name__)

# Latents are centred, with a standard deviation of several at most.
_MAX_LATENT_WITHOUT_SIGN = 20


def calibrate(
    unet: Callable[..., Any],
    images: torch.Tensor,
    scheduler: DDPMCarsScheduler,
    num_timesteps: int | None = 50,
    num_images: int = 64,
    batch_size: int = 64,
    num_bands: int | None = 16,
    seed: int = 0,
    progress_bar: bool = True,
    class_labels: torch.Tensor | None = None,
) -> dict[str, Any]:
    """Measure eps_mse_t = E (eps - eps_hat)^2 / d for "analytic" and "spectral", and install it in `scheduler`.

    For a perfect model it is 1 - Gamma_t with Gamma_t = E |eps_hat|^2 / d (arXiv:2201.06503, section 3). For an
    imperfect one the error is the better estimate, since sampling meets it. It is measured on x_0,
    alpha_bar / (1 - alpha_bar) E (x_0 - x_0_hat)^2, with the clipping and the kind of prediction of the scheduler.

    Args:
        unet: The model, or any callable of (x_t, t), shapes (batch, C, H, W) and (batch,), whose result is a tensor or
            has one as `sample`. The second half of doubled channels, a learned variance, is left out.
        images: x_0, shape (N, C, H, W), floating point in [-1, 1] (or latents), from the training data.
        scheduler: The scheduler that the model was trained with; sampling reads the result from its config.
        num_timesteps: At how many timesteps, 2 or more, evenly spaced in log SNR; None is all of them.
        num_images: Images per timestep, 1 or more, drawn without repeats; all where there are fewer.
        batch_size: How many at a time, 1 or more.
        num_bands: Bands of spatial frequency for "spectral", 2 or more; None measures for "analytic" only.
        seed: Decides the images and the noise.
        progress_bar: Whether one is shown.
        class_labels: int64 (N,), the classes of the images, handed to the network; None hands it none.

    Returns:
        The calibration, as `DDPMCarsScheduler.set_calibration` takes it.

    Raises:
        TypeError: If `unet`, `images` or `scheduler` is something else.
        ValueError: If `images` is not of that shape and kind, is empty, or holds NaN or the grey levels 0 to 255, or
            the labels are not as many.
    """
    if isinstance(unet, DiffusionPipeline):
        raise TypeError(f"unet is of type {type(unet).__name__}; pass its unet, as in calibrate(pipe.unet, ...).")
    _check_scheduler(scheduler)
    if not hasattr(scheduler, "set_calibration"):
        raise TypeError(
            f"scheduler is of type {type(scheduler).__name__}; pass "
            "DDPMCarsScheduler.from_config(scheduler.config), which can sample with what is measured."
        )
    _check_images(images)
    if class_labels is not None and len(class_labels) != len(images):
        raise ValueError(f"class_labels has {len(class_labels)} values for {len(images)} images: pass one for each.")
    images = images.float()
    alpha_bar = scheduler.alphas_cumprod_float64
    timesteps = _spaced_in_log_snr(alpha_bar, num_timesteps)
    bands = None if num_bands is None else Bands(images, num_bands)
    generator = seeded_generator(seed)
    mse, band_mse = [], []
    for t in progress(timesteps.tolist(), desc="calibrating", unit="timestep", disable=not progress_bar):
        chosen = torch.randperm(len(images), generator=generator)[:num_images]
        squares = torch.zeros(images.shape[1:], dtype=torch.float64)
        band_squares = torch.zeros_like(squares)
        for rows in chosen.split(batch_size):
            labels = None if class_labels is None else class_labels[rows]
            error = x_0_error(unet, scheduler, images[rows], t, generator, labels)
            squares += error.square().sum(0)
            if bands is not None:
                band_squares += bands.modes(error).square().sum(0)
        to_eps = alpha_bar[t] / (1 - alpha_bar[t]) / len(chosen)
        mse.append(to_eps * float(squares.mean()))
        if bands is not None:
            band_mse.append(to_eps * bands.mean(band_squares))
    calibration = {
        "num_train_timesteps": len(alpha_bar),
        "timesteps": timesteps.tolist(),
        "alphas_cumprod": rounded(alpha_bar[timesteps]),
        "eps_mse": rounded(np.minimum(mse, 1)),
        "data_variance": rounded(float(images.double().var(0, correction=0).mean())),
    }
    if bands is not None:
        calibration |= {**bands.description(), "band_eps_mse": rounded(np.minimum(band_mse, 1))}
    scheduler.set_calibration(calibration)
    return calibration


def fit_init_noise(images: torch.Tensor, scheduler: SchedulerMixin, num_modes: int = 4) -> dict[str, Any]:
    """Measure the mean and covariance of the lowest DCT modes of the data, and keep them in the scheduler's config.

    With them `DDPMCarsPipeline` starts, whatever its scheduler, from q(x_T) = N(sqrt(alpha_bar_T) mean,
    alpha_bar_T covariance + (1 - alpha_bar_T) I) (Ho et al. 2020, eq. 4, to second order). That matters where
    alpha_bar_T is not nearly 0, as for the linear betas with 300 timesteps.

    Args:
        images: x_0, shape (N, C, H, W), floating point in [-1, 1] (or latents), from the training data.
        scheduler: Any scheduler; the entry "_init_noise" of its config is set, and set to None forgets it.
        num_modes: m: the lowest m x m modes are kept with their covariance, 1 or more; the rest with their mean
            variance.

    Returns:
        The statistics, as `pipeline_ddpm_cars.match_init_noise` takes them.

    Raises:
        TypeError: If `images` or `scheduler` is something else.
        ValueError: If `images` is not of that shape and kind, is empty, or holds NaN or the grey levels 0 to 255.
    """
    _check_scheduler(scheduler)
    _check_images(images)
    modes = dct(images.double())
    m = min(num_modes, *images.shape[2:])
    rows, columns = (dct_matrix(size)[:m].tolist() for size in images.shape[2:])
    low = modes[:, :, :m, :m].flatten(1)
    variance = modes.var(0, correction=0)
    num_rest = variance[0].numel() - m * m
    rest = (variance.sum() - variance[:, :m, :m].sum()) / max(1, num_rest * len(variance))
    statistics = {
        "rows": rows,
        "columns": columns,
        "mean": rounded(low.mean(0).view(-1, m, m).numpy()),
        "covariance": rounded(torch.cov(low.T, correction=0).reshape(low.shape[1], -1).numpy()),
        "rest_variance": rounded(rest.numpy()),
    }
    scheduler.register_to_config(_init_noise=statistics)
    return statistics


def _check_scheduler(scheduler: SchedulerMixin) -> None:
    if not isinstance(scheduler, SchedulerMixin):
        raise TypeError(f"scheduler is of type {type(scheduler).__name__}; pass a scheduler, such as pipe.scheduler.")


def _check_images(images: torch.Tensor) -> None:
    if not isinstance(images, torch.Tensor):
        raise TypeError(
            f"images is of type {type(images).__name__}; pass a torch tensor, "
            "(N, channels, height, width), in [-1, 1]."
        )
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images has shape {tuple(images.shape)}; it must be (N, channels, height, width), N >= 1.")
    if not images.isfinite().all():
        raise ValueError("images holds values that are not finite.")
    if not images.is_floating_point():
        raise ValueError(
            f"images is of {images.dtype}; they must be floating point in [-1, 1], as images.float() / 127.5 - 1 is."
        )
    low, high = float(images.min()), float(images.max())
    if low < 0 or low == high:
        return
    if high > _MAX_LATENT_WITHOUT_SIGN and torch.equal(images, images.round()):
        raise ValueError(
            f"images holds whole numbers from {low:g} to {high:g}; they must be in [-1, 1], as images / 127.5 - 1 is."
        )
    # Not refused: bright images and latents of some encoders have no negative values either.
    if high <= 1 or high > _MAX_LATENT_WITHOUT_SIGN:
        looks = "[0, 1]" if high <= 1 else "[0, 255]"
        logger.warning(f"images look like {looks}, from {low:.3g} to {high:.3g}; they must be in [-1, 1].")


def _spaced_in_log_snr(alpha_bar: np.ndarray, num_timesteps: int | None) -> np.ndarray:
    with_signal = np.flatnonzero(alpha_bar > 0)
    if num_timesteps is None:
        return with_signal
    # Ascending with t, as searching wants it.
    minus_log_snr = np.log(1 - alpha_bar[with_signal]) - np.log(alpha_bar[with_signal])
    wanted = np.linspace(minus_log_snr[0], minus_log_snr[-1], num_timesteps)
    return np.unique(np.clip(np.searchsorted(minus_log_snr, wanted), 0, len(with_signal) - 1))


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

    Natural images change fastest at low frequencies, which square roots resolve. No band is without modes:
    `num_bands`, 2 or more, is the largest number of them, and small images have fewer distinct frequencies.
    """
    lowest = 1 / max(height, width) / np.sqrt(2)
    edges = np.concatenate([[0], np.linspace(np.sqrt(lowest / 2), 1, num_bands) ** 2])
    occupied = np.unique(band_index(height, width, edges))
    return np.append(edges[occupied], 1.0)
