"""What the tests of the scheduler share."""

import itertools

import numpy as np
import torch

from ddpm_cars import DDPMCarsScheduler
from ddpm_cars.diffusion.calibration import band_edges
from ddpm_cars.scheduling_ddpm_cars import band_index

SPACINGS = ["leading", "linspace", "trailing"]
VARIANCES = ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"]
LEARNED = ("learned", "learned_range")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def model_output_for(variance_type: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    mean = randn(*shape, seed=1, dtype=dtype)
    if variance_type not in LEARNED:
        return mean
    return torch.cat([mean, torch.rand(shape, generator=seeded(2)).to(dtype)], dim=1)


def alpha_bars(T: int = 1000) -> np.ndarray:
    return np.cumprod(1 - np.linspace(0.0001, 0.02, T))


def chain(scheduler: DDPMCarsScheduler) -> list[tuple[int, int]]:
    """List the pairs (t, s) that sampling visits; the last s is -1."""
    return list(itertools.pairwise([*scheduler.timesteps.tolist(), -1]))


def noise_std(scheduler: DDPMCarsScheduler, t: int) -> float:
    """Read sigma_t off a step from zeros, which leaves sigma_t times the noise."""
    zeros = torch.zeros(1, 1, 1, dtype=torch.float64)
    drawn = scheduler.step(zeros, t, zeros, generator=seeded(5)).prev_sample
    return float(drawn / torch.randn(1, 1, 1, generator=seeded(5), dtype=torch.float64))


def mean_of_step(scheduler: DDPMCarsScheduler, model_output: float, t: int, x_t: float) -> float:
    inputs = [torch.full((1, 1, 1), value, dtype=torch.float64) for value in (model_output, x_t)]
    drawn = scheduler.step(inputs[0], t, inputs[1], generator=seeded(5)).prev_sample
    return float(drawn) - noise_std(scheduler, t) * float(
        torch.randn(1, 1, 1, generator=seeded(5), dtype=torch.float64)
    )


T = 1000
ALPHA_BAR = alpha_bars(T)
SIZE = (6, 10)


def gaussian_mse(c: np.ndarray | float, alpha_bar: np.ndarray = ALPHA_BAR) -> np.ndarray:
    """E (eps - eps_hat)^2 of the ideal denoiser of N(0, c), one row per timestep."""
    alpha_bar = alpha_bar.reshape(-1, *[1] * np.ndim(c))
    return alpha_bar * c / (alpha_bar * c + 1 - alpha_bar)


def calibration_of(eps_mse: np.ndarray, **more) -> dict:
    t = np.arange(len(eps_mse)) if len(eps_mse) == T else np.linspace(0, T - 1, len(eps_mse)).astype(int)
    return {
        "num_train_timesteps": T,
        "timesteps": t.tolist(),
        "alphas_cumprod": ALPHA_BAR[t].tolist(),
        "eps_mse": eps_mse.tolist(),
        **more,
    }


def spectral_calibration(band_variance: np.ndarray, colour_axes: np.ndarray, edges: np.ndarray) -> dict:
    """That of Gaussian data with one variance for every band and colour axis."""
    modes = np.bincount(band_index(*SIZE, edges).ravel(), minlength=band_variance.shape[1])
    scalar = (gaussian_mse(band_variance) * modes).sum((1, 2)) / modes.sum() / len(band_variance)
    return calibration_of(
        scalar,
        sample_size=list(SIZE),
        band_edges=edges.tolist(),
        colour_axes=colour_axes.tolist(),
        band_variance=band_variance.tolist(),
        band_eps_mse=gaussian_mse(band_variance).tolist(),
    )


def exact(variance_type: str, calibration: dict | None = None, **config) -> DDPMCarsScheduler:
    """A scheduler without clipping and without the bound on the last noise, which are not exact on purpose."""
    settings = {"clip_sample": False, "max_last_noise_grey_levels": None, **config}
    scheduler = DDPMCarsScheduler(variance_type=variance_type, **settings)
    scheduler.set_calibration(calibration)
    return scheduler


def orthonormal(size: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def random_calibration() -> dict:
    edges = band_edges(*SIZE, 5)
    v = np.random.default_rng(3).uniform(0.01, 2, (3, len(edges) - 1))
    return spectral_calibration(v, orthonormal(3), edges)
