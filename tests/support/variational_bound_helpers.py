"""Networks and schedulers whose variational bound can be written out, and the bound written out."""

import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ddpm_cars import DDPMCarsScheduler
from ddpm_cars.diffusion.bound import Bound, Likelihood, variational_bounds
from tests.support.scheduler_helpers import ALPHA_BAR, T, calibration_of, exact, gaussian_mse

BETAS = np.linspace(0.0001, 0.02, T)
WHITE = ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "analytic"]
CHAINS = {
    "all": list(range(T))[::-1],
    "leading": list(range(0, T, 20))[::-1],
    "trailing": list(range(99, T, 100))[::-1],
    "irregular": [999, 998, 600, 13, 12, 4, 0],
    "late": [700, 350, 2],
    "two": [999, 0],
    "one": [400],
}


def by_name(chains: dict[str, list[int]]) -> list:
    return [pytest.param(chain, id=name) for name, chain in chains.items()]


def pairs(chain: list[int]) -> list[tuple[int, int]]:
    return list(itertools.pairwise(chain))


def normal_images(c: float, *shape: int, seed: int = 0) -> torch.Tensor:
    """Pixels of N(0, c), float64."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * math.sqrt(c)
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def scheduler_of(variance_type: str, chain: list[int], c: float = 0.3, **config) -> DDPMCarsScheduler:
    """Set to a chain, and calibrated for the ideal denoiser of N(0, c I)."""
    scheduler = exact(variance_type, calibration_of(gaussian_mse(c)), **config)
    scheduler.set_timesteps(timesteps=chain)
    return scheduler


def measure(unet: Callable, images: torch.Tensor, *schedulers: DDPMCarsScheduler, **settings) -> Likelihood:
    named = {str(i): scheduler for i, scheduler in enumerate(schedulers)}
    return variational_bounds(unet, images, named, progress_bar=False, **settings)


def bound_of(unet: Callable, images: torch.Tensor, scheduler: DDPMCarsScheduler, **settings) -> Bound:
    return measure(unet, images, scheduler, **settings).bounds["0"]


class Network:
    """Keeps what it is shown, and says x_0_hat(x_t, t) in the words of `prediction_type`."""

    def __init__(self, x_0_hat: Callable, prediction_type: str = "epsilon", place: Callable | None = None):
        self.x_0_hat, self.prediction_type, self.place = x_0_hat, prediction_type, place
        self.seen: dict[int, torch.Tensor] = {}
        self.num_calls = 0

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert (t == t[0]).all()
        number = int(t[0])
        self.num_calls += 1
        self.seen[number] = x_t if number not in self.seen else torch.cat([self.seen[number], x_t])
        a, b = math.sqrt(ALPHA_BAR[number]), math.sqrt(1 - ALPHA_BAR[number])
        x_0_hat = self.x_0_hat(x_t, number)
        eps_hat = (x_t - a * x_0_hat) / b
        output = {"epsilon": eps_hat, "sample": x_0_hat, "v_prediction": a * eps_hat - b * x_0_hat}
        prediction = output[self.prediction_type]
        return prediction if self.place is None else torch.cat([prediction, self.place(x_t, number)], dim=1)


def ideal(c: float) -> Callable:
    """E(x_0 | x_t) of N(0, c I)."""
    return lambda x_t, t: x_t * math.sqrt(ALPHA_BAR[t]) * c / (ALPHA_BAR[t] * c + 1 - ALPHA_BAR[t])


def odd(x_t: torch.Tensor, t: int) -> torch.Tensor:
    """Some network that is ideal for nothing."""
    return 0.8 * torch.sin(3 * x_t + t)


def place_of(x_t: torch.Tensor, t: int) -> torch.Tensor:
    return torch.cos(5 * x_t - t)


def step_of(t: int, s: int, c: float = 0.3) -> SimpleNamespace:
    """The step from t to s, -1 for x_0, written out from the betas; also the true variances of N(0, c I)."""
    alpha_bar_t, alpha_bar_s = np.prod(1 - BETAS[: t + 1]), np.prod(1 - BETAS[: s + 1])
    alpha = np.prod(1 - BETAS[s + 1 : t + 1])
    beta, marginal_t, marginal_s = 1 - alpha, alpha_bar_t * c + 1 - alpha_bar_t, alpha_bar_s * c + 1 - alpha_bar_s
    return SimpleNamespace(
        beta=beta,
        beta_tilde=(1 - alpha_bar_s) / (1 - alpha_bar_t) * beta,
        x_0_weight=math.sqrt(alpha_bar_s) * beta / (1 - alpha_bar_t),
        x_t_weight=math.sqrt(alpha) * (1 - alpha_bar_s) / (1 - alpha_bar_t),
        alpha_bar_t=alpha_bar_t,
        alpha_bar_s=alpha_bar_s,
        # Of x_s given x_t, and of x_0 given x_t.
        true_variance=marginal_s * beta / marginal_t,
        x_0_variance=c * (1 - alpha_bar_t) / marginal_t,
    )


def variance_of(variance_type: str, step: SimpleNamespace) -> float:
    if variance_type == "analytic":
        return step.true_variance
    return step.beta if variance_type.startswith("fixed_large") else step.beta_tilde


def decoder_variance_of(variance_type: str, chain: list[int], c: float = 0.3) -> float:
    if variance_type == "analytic":
        return step_of(chain[-1], -1, c).x_0_variance
    return step_of(*chain[-2:]).beta_tilde if len(chain) > 1 else step_of(chain[-1], -1).beta


def kl_bpd(x_0: torch.Tensor, x_t: torch.Tensor, x_0_hat: torch.Tensor, step: SimpleNamespace, variance) -> np.ndarray:
    posterior = Normal(step.x_0_weight * x_0 + step.x_t_weight * x_t, math.sqrt(step.beta_tilde))
    model = Normal(step.x_0_weight * x_0_hat + step.x_t_weight * x_t, torch.as_tensor(variance).sqrt())
    return kl_divergence(posterior, model).mean((1, 2, 3)).numpy() / math.log(2)


def decoder_bpd(x_0: torch.Tensor, x_0_hat: torch.Tensor, variance) -> np.ndarray:
    model = Normal(x_0_hat, torch.as_tensor(variance).sqrt())
    below = torch.where(x_0 == -1, 0, model.cdf(x_0 - 1 / 255))
    above = torch.where(x_0 == 1, 1, model.cdf(x_0 + 1 / 255))
    return -torch.log2(above - below).mean((1, 2, 3)).numpy()
