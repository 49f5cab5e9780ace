"""What the tests of the scheduler share."""

import itertools

import numpy as np
import torch

from ddpm_cars import DDPMCarsScheduler

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
