"""The noise that sampling starts from, matched to the moments of the data where they are known."""

import math
from collections.abc import Mapping
from typing import Any

import torch


def match_init_noise(noise: torch.Tensor, statistics: Mapping[str, Any], alpha_bar: float) -> torch.Tensor:
    """Turn white noise into x_T ~ N(sqrt(alpha_bar) mean, alpha_bar covariance + (1 - alpha_bar) I).

    This is q(x_T) of Ho et al. 2020, eq. 4, to second order. N(0, I) stands in for it where alpha_bar is nearly 0.

    Args:
        noise: z ~ N(0, I), shape (batch, C, H, W), float32 or float64.
        statistics: Moments of the data in the m x m lowest modes of an orthonormal basis: its "rows" (m, H) and
            "columns" (m, W), the "mean" (C, m, m) and "covariance" (C m m, C m m) of the modes, and "rest_variance",
            the mean variance of everything else.
        alpha_bar: The noise level that sampling starts from, in [0, 1].

    Returns:
        x_T like `noise`.

    Raises:
        ValueError: If the statistics belong to images of another shape.
    """
    mean, covariance, rows, columns = (
        torch.tensor(statistics[name], dtype=torch.float64) for name in ("mean", "covariance", "rows", "columns")
    )
    measured = (len(mean), rows.shape[1], columns.shape[1])
    if tuple(noise.shape[1:]) != measured:
        raise ValueError(
            f"The noise has shape {tuple(noise.shape)}, but the init noise was measured on (channels, height, "
            f"width) = {measured}: measure it again with ddpm_cars.fit_init_noise."
        )
    values, vectors = torch.linalg.eigh(alpha_bar * covariance)
    # The symmetric root keeps x_T as near as possible to the given noise, so seeds keep their images.
    root = vectors * (values.clamp(min=0) + 1 - alpha_bar).sqrt() @ vectors.T
    rest_std = (alpha_bar * statistics["rest_variance"] + 1 - alpha_bar) ** 0.5
    rows, columns, root, shift = (x.to(noise) for x in (rows, columns, root, alpha_bar**0.5 * mean))
    low = rows @ noise @ columns.T
    wanted = shift + (low.flatten(1) @ root).view(low.shape)
    return rest_std * noise + rows.T @ (wanted - rest_std * low) @ columns


def noised_start(noise: torch.Tensor, scheduler: Any) -> torch.Tensor:
    """Turn white noise into what sampling starts from: x_T, or x_0 + sigma eps for schedulers that compute with that.

    x_T is drawn from q(x_T) if the config of the scheduler holds the moments of the data, else from N(0, I). The
    scheduler is set to the timesteps of sampling. Raises ValueError if the moments are of images of another shape.
    """
    statistics, scale = scheduler.config.get("_init_noise"), scheduler.init_noise_sigma
    if statistics is None:
        return noise * scale
    alpha_bar = float(scheduler.alphas_cumprod[int(scheduler.timesteps[0])])
    x_T = match_init_noise(noise, statistics, alpha_bar)
    # x_0 + sigma eps is x_T / sqrt(alpha_bar). Their own scale, sigma alone, has no room for x_0.
    return x_T if scale == 1 else x_T / math.sqrt(alpha_bar)


def seed_noise_of_steps(scheduler: Any, generator: torch.Generator | list[torch.Generator] | None) -> None:
    """Make the noise of DPMSolverSDEScheduler follow from the generators, which its steps do not take.

    Without, it would follow from torch's own generator, so that no seed would give the same image again. A seed that
    its config has stays. Other schedulers are left as they are.
    """
    takes_seed = "noise_sampler_seed" in vars(scheduler) and scheduler.config.get("noise_sampler_seed") is None
    if generator is None or not takes_seed:
        return
    draws = [
        int(torch.randint(2**62, (1,), generator=each, device=each.device))
        for each in (generator if isinstance(generator, list) else [generator])
    ]
    scheduler.noise_sampler_seed = draws if isinstance(generator, list) else draws[0]
