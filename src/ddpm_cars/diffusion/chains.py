"""What a reverse step is expected to cost in the variational bound, and the chain of timesteps that costs least.

Symbols as in `scheduling_ddpm_cars`: lambda^2 and sigma^2 of Bao et al. 2022 (arXiv:2201.06503), the variances of x_s
given x_t with and without x_0 known, are `beta_tilde` and `variance` here.
"""

from typing import Any

import numpy as np

from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler, posterior

# One variance for all pixels of all images, so that the KL follows from a mean squared error.
WHITE_VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "analytic")


def least_cost_timesteps(scheduler: DDPMCarsScheduler, num_inference_steps: int) -> list[int]:
    """Find the chain from T - 1 to 0 whose KL terms are expected to add up to least (Bao et al. 2022, section 4).

    It is the shortest path through all pairs s < t with the lengths L_{s|t} of `expected_kl_nats`, found by dynamic
    programming over the number of steps (Watson et al. 2021, arXiv:2106.03802). The terms of the prior and of the
    decoder are left out: all chains share their timesteps. What is least for the bound need not look best.

    Args:
        scheduler: One with a calibration (`ddpm_cars.calibrate`), whose `variance_type` decides the lengths. It is
            not changed.
        num_inference_steps: How many timesteps, in [1, T]. A chain of one is T - 1 alone.

    Returns:
        Strictly descending timesteps, for `DDPMCarsScheduler.set_timesteps(timesteps=...)`.

    Raises:
        ValueError: If there is no calibration, the number is out of range, or `variance_type` is learned, "spectral"
            or unknown.
    """
    T = len(scheduler)
    if not 1 <= num_inference_steps <= T:
        raise ValueError(f"num_inference_steps is {num_inference_steps}; it must be from 1 to {T}.")
    t, s = np.tril_indices(T, -1)
    # Row s holds the lengths of all steps to s.
    cost = np.full((T, T), np.inf)
    cost[s, t] = expected_kl_nats(scheduler, t, s, scheduler.original_sample_variance()[t])
    least = np.full(T, np.inf)
    least[-1] = 0.0
    came_from = []
    for _ in range(num_inference_steps - 1):
        reached = least + cost
        came_from.append(reached.argmin(1))
        least = reached.min(1)
    timesteps = [0] if came_from else [T - 1]
    for origin in reversed(came_from):
        timesteps.append(int(origin[timesteps[-1]]))
    return timesteps[::-1]


def expected_kl_nats(scheduler: DDPMCarsScheduler, t: Any, s: Any, x_0_mse: Any) -> np.ndarray:
    """Compute KL(q(x_s | x_t, x_0) || p(x_s | x_t)) per dimension from the mean squared error of x_0_hat.

    L_{s|t} = (log(variance / beta_tilde) - 1 + (beta_tilde + w^2 x_0_mse) / variance) / 2: the KL of two Gaussians
    whose means differ by w (x_0 - x_0_hat), w = sqrt(alpha_bar_s) beta / (1 - alpha_bar_t) (Ho et al. 2020, eq. 5 to
    7, for a step to any s). With "analytic" and the calibrated error it is log(variance / beta_tilde) / 2.

    `x_0_mse` is (x_0 - x_0_hat)^2 at t: its mean over the dimensions of one image gives the KL of that image, and the
    expectation the expected KL, which is linear in it. t, s and x_0_mse are of shapes that broadcast. The chain of the
    scheduler does not matter, nor does `max_last_noise_grey_levels`. Raises ValueError if `variance_type` is learned,
    "spectral" or unknown, or "analytic" has no calibration.
    """
    check_variance_type(scheduler, WHITE_VARIANCES)
    alpha_bar = scheduler.alphas_cumprod_float64
    x_0_weight, _, beta, beta_tilde = posterior(alpha_bar[t], alpha_bar[s])
    if scheduler.config.variance_type == "analytic":
        variance = beta_tilde + x_0_weight**2 * scheduler.original_sample_variance()[t]
    else:
        variance = beta if scheduler.config.variance_type.startswith("fixed_large") else beta_tilde
    log_ratio = np.log(beta_tilde / variance)
    return 0.5 * (np.expm1(log_ratio) - log_ratio + x_0_weight**2 * x_0_mse / variance)


def check_variance_type(scheduler: DDPMCarsScheduler, allowed: tuple[str, ...]) -> None:
    """Raise ValueError for a scheduler whose KL terms cannot be found."""
    variance_type = scheduler.config.variance_type
    if variance_type not in allowed:
        cure = "'analytic'" if variance_type == "spectral" else "'fixed_small'"
        raise ValueError(f"variance_type is {variance_type!r}, but a bound needs one of {allowed}: use {cure}.")
