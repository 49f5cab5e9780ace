"""The variational bound on the likelihood of held-out 8-bit images, and the chain of timesteps that it costs least.

Symbols as in `scheduling_ddpm_cars`: lambda^2 and sigma^2 of Bao et al. 2022 (arXiv:2201.06503), the variances of x_s
given x_t with and without x_0 known, are `beta_tilde` and `variance` here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ddpm_cars.diffusion.denoiser import Denoiser
from ddpm_cars.diffusion.gaussian import discretized_gaussian_nll_nats, gaussian_kl_nats, mean_per_image
from ddpm_cars.diffusion.seeds import noise_of_rows, step_seed
from ddpm_cars.runtime.console import progress
from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler, interpolated_log_variance, posterior, posterior_of_chain

# One variance for all pixels of all images, so that the KL follows from a mean squared error.
WHITE_VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "analytic")
# What decides how x_0_hat is read off the network's output.
_PREDICTION_SETTINGS = (
    "prediction_type",
    "clip_sample",
    "clip_sample_range",
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
)


@dataclass(frozen=True, eq=False)
class Bound:
    """The variational bound of one chain (Ho et al. 2020, eq. 5), image by image, in bits per dimension, float64."""

    timesteps: np.ndarray  # int64 (n,), strictly descending: the chain
    prior_bpd: np.ndarray  # (N,), KL(q(x_t | x_0) || N(0, I)) at the first timestep
    # (N, n), one per timestep t: KL(q(x_s | x_t, x_0) || p(x_s | x_t)) with s the next timestep, and at the last one
    # the decoder, -log2 p(x_0 | x_t).
    terms_bpd: np.ndarray

    @property
    def kl_bpd(self) -> np.ndarray:
        """The sum of all KL terms but that of the prior, float64 (N,)."""
        return self.terms_bpd[:, :-1].sum(1)

    @property
    def decoder_bpd(self) -> np.ndarray:
        """The last term, float64 (N,)."""
        return self.terms_bpd[:, -1]

    @property
    def total_bpd(self) -> np.ndarray:
        """The bound, float64 (N,)."""
        return self.prior_bpd + self.terms_bpd.sum(1)

    @property
    def bpd(self) -> float:
        """The mean of the bound over the images."""
        return float(self.total_bpd.mean())

    @property
    def bpd_std_error(self) -> float:
        """The standard error of `bpd`: how far it may be from that of endlessly many images. NaN for one image."""
        n = len(self.prior_bpd)
        return float(self.total_bpd.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan


@dataclass(frozen=True, eq=False)
class Likelihood:
    """What one pass of a network over noised images tells."""

    timesteps: np.ndarray  # int64 (U,), ascending: every timestep that a chain visits
    # float64 (N, U), (eps - eps_hat)^2 per dimension, as x_0_hat says it after clipping:
    # alpha_bar_t / (1 - alpha_bar_t) (x_0 - x_0_hat)^2.
    eps_mse: np.ndarray
    bounds: dict[str, Bound]  # of every chain, by name


def variational_bounds(
    unet: Callable[..., Any],
    images: torch.Tensor,
    schedulers: Mapping[str, DDPMCarsScheduler],
    *,
    class_labels: torch.Tensor | None = None,
    indices: Sequence[int] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress_bar: bool = True,
) -> Likelihood:
    """Measure -log2 p(x_0) <= prior + KL terms + decoder (Ho et al. 2020, eq. 5) per dimension, for many chains.

    Each term takes one draw of x_t per image, which is the same for all chains; the network runs once at every
    timestep of their union. The decoder integrates N(x_0_hat, variance) over the bins of 8-bit pixels (eq. 13). Its
    variance is Var(x_0 | x_t) for "analytic"; the posterior has none there, so for the others beta_tilde of the step
    before stands in, or beta in a chain of one (Nichol & Dhariwal 2021, arXiv:2102.09672, do so too), from which
    "learned_range" interpolates to log beta (eq. 15).

    Args:
        unet: The network, in evaluation mode, or any callable of (x_t, t), shapes (batch, C, H, W) and (batch,),
            whose result is a tensor or has one as `sample`, of C or 2 C channels. The second half is what
            "learned_range" makes its variance of; other variances do not use it.
        images: x_0, shape (N, C, H, W), on the CPU: k / 127.5 - 1 with k = 0, 1, ... 255, float32, or float64 to have
            everything in it. With float32, errors and terms are float64 all the same.
        schedulers: By name; `timesteps` of each is its chain, as `set_timesteps` left it. They may differ in chain and
            `variance_type` ("fixed_small", "fixed_large", "analytic" without `max_last_noise_grey_levels`,
            "learned_range"), and in nothing that x_t or x_0_hat depend on. None is changed.
        class_labels: int64 (N,), handed to the network; None hands it none.
        indices: The numbers of the images in the whole data set, 0 or more. They decide the noise, so that several
            processes can share a data set. None is 0, 1, ... N - 1.
        batch_size: Images at a time, 1 or more.
        seed: Decides the noise together with the number of the image and the timestep, 0 or more.
        progress_bar: Whether one is shown.

    Returns:
        The bounds under the names of `schedulers`, and the error of the network at every timestep.

    Raises:
        ValueError: If images, labels or indices are not of that kind, the schedulers do not fit each other or have a
            variance without a bound, the channels of the output do not fit, or the network should see eps where
            alpha_bar is 0.
    """
    _check_images(images)
    indices = range(len(images)) if indices is None else indices
    for kind, values in (("class_labels", class_labels), ("indices", indices)):
        if values is not None and len(values) != len(images):
            raise ValueError(f"{kind} has {len(values)} values for {len(images)} images: pass one for each.")
    _check_schedulers(schedulers)
    chains = {name: _Chain(scheduler, len(images)) for name, scheduler in schedulers.items()}
    timesteps = np.unique(np.concatenate([chain.timesteps for chain in chains.values()]))
    scheduler = next(iter(schedulers.values()))
    denoiser = Denoiser(unet, scheduler, torch.float64)
    x_0_mse = np.empty((len(images), len(timesteps)))
    shown = progress(timesteps.tolist(), desc="measuring", unit="timestep", disable=not progress_bar)
    for column, t in enumerate(shown):
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            x_0 = images[rows]
            eps = noise_of_rows(x_0.shape[1:], (step_seed(seed, i, t) for i in indices[rows])).to(x_0.dtype)
            labels = None if class_labels is None else class_labels[rows]
            x_0_hat, place = denoiser.x_0_hat(scheduler.add_noise(x_0, eps, torch.tensor(t)), t, labels)
            x_0 = x_0.double()
            x_0_mse[rows, column] = mean_per_image((x_0 - x_0_hat).square())
            for chain in chains.values():
                chain.measure(rows, t, x_0, x_0_hat, place)
    alpha_bar = scheduler.alphas_cumprod_float64[timesteps]
    eps_mse = alpha_bar / (1 - alpha_bar) * x_0_mse
    mean_square = mean_per_image(images.double().square()).numpy()
    bounds = {
        name: chain.bound(mean_square, x_0_mse[:, np.searchsorted(timesteps, chain.timesteps)])
        for name, chain in chains.items()
    }
    return Likelihood(timesteps, eps_mse, bounds)


class _Chain:
    """The terms of one scheduler's bound, filled while the network runs."""

    def __init__(self, scheduler: DDPMCarsScheduler, num_images: int):
        self.scheduler = scheduler
        self.timesteps = scheduler.timesteps.cpu().numpy().astype(np.int64)
        self.is_learned = scheduler.config.variance_type == "learned_range"
        self.position = {t: i for i, t in enumerate(self.timesteps.tolist())}
        self.terms_nats = np.empty((num_images, len(self.timesteps)))
        self.alpha_bar = scheduler.alphas_cumprod_float64[self.timesteps]
        steps = posterior_of_chain(self.alpha_bar)
        self.x_0_weight = steps.x_0_weight
        self.log_beta, self.log_beta_tilde = np.log(steps.beta), np.log(steps.beta_tilde)

    def measure(self, rows: slice, t: int, x_0: torch.Tensor, x_0_hat: torch.Tensor, place: torch.Tensor) -> None:
        """Set the terms at t of some images, except those that `bound` finds from the mean squared error."""
        i = self.position.get(t)
        if i is None:
            return
        if i == len(self.timesteps) - 1:
            nats = discretized_gaussian_nll_nats(x_0, x_0_hat, self._log_variance(i, place))
        elif self.is_learned:
            difference = self.x_0_weight[i] * (x_0 - x_0_hat)
            log_beta_tilde, log_variance = torch.tensor(self.log_beta_tilde[i]), self._log_variance(i, place)
            nats = gaussian_kl_nats(difference, log_beta_tilde, torch.zeros(()), log_variance)
        else:
            return
        self.terms_nats[rows, i] = mean_per_image(nats)

    def _log_variance(self, i: int, place: torch.Tensor) -> torch.Tensor:
        if self.is_learned:
            if not place.shape[1]:
                raise ValueError(
                    "variance_type 'learned_range' needs a network with twice the channels of the images, and this "
                    "one has as many as they: measure it with 'fixed_small'."
                )
            return interpolated_log_variance(place, self.log_beta[i], self.log_beta_tilde[i])
        if self.scheduler.config.variance_type == "analytic":
            return torch.tensor(np.log(self.scheduler.original_sample_variance()[self.timesteps[i]]))
        return torch.tensor(self.log_beta_tilde[i])

    def bound(self, mean_square: np.ndarray, x_0_mse: np.ndarray) -> Bound:
        """Complete the bound from x_0^2 (N,) and (x_0 - x_0_hat)^2 (N, n), both per dimension."""
        if not self.is_learned and len(self.timesteps) > 1:
            t, s = self.timesteps[:-1], self.timesteps[1:]
            self.terms_nats[:, :-1] = expected_kl_nats(self.scheduler, t, s, x_0_mse[:, :-1])
        mean = torch.from_numpy(np.sqrt(self.alpha_bar[0] * mean_square))
        log_variance, zero = torch.tensor(np.log1p(-self.alpha_bar[0])), torch.zeros((), dtype=torch.float64)
        prior_nats = gaussian_kl_nats(mean, log_variance, zero, zero).numpy()
        return Bound(self.timesteps, prior_nats / math.log(2), self.terms_nats / math.log(2))


def _check_images(images: torch.Tensor) -> None:
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images has shape {tuple(images.shape)}; it must be (N, channels, height, width), N >= 1.")
    level = (images.double() + 1) * 127.5
    # float32 keeps a level to 1e-5.
    on_grid = ((level - level.round()).abs() < 1e-3) & (level > -0.5) & (level < 255.5)
    if not images.is_floating_point() or not on_grid.all():
        raise ValueError(
            f"images holds {images[~on_grid][:1].tolist()} ({images.dtype}), not one of the values of 8-bit pixels: "
            "pass them as pixels / 127.5 - 1 in float32, as the bound is one of a probability."
        )


def _check_schedulers(schedulers: Mapping[str, DDPMCarsScheduler]) -> None:
    if not schedulers:
        raise ValueError("schedulers is empty: pass one or more, by name.")
    name, first = next(iter(schedulers.items()))
    for other, scheduler in schedulers.items():
        check_variance_type(scheduler, (*WHITE_VARIANCES, "learned_range"))
        different = [key for key in _PREDICTION_SETTINGS if scheduler.config[key] != first.config[key]]
        if not np.array_equal(scheduler.alphas_cumprod_float64, first.alphas_cumprod_float64):
            different.append("noise levels")
        if different:
            raise ValueError(
                f"Schedulers {name!r} and {other!r} differ in {different}, but the network runs once for all: "
                "measure them in separate calls."
            )
        start = int(scheduler.timesteps[0])
        if first.config.prediction_type == "epsilon" and scheduler.alphas_cumprod_float64[start] == 0:
            raise ValueError(
                f"The chain of {other!r} starts at timestep {start}, where alpha_bar is 0 and eps says nothing of "
                "x_0: choose one that starts lower, or a network that predicts v or x_0."
            )


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
