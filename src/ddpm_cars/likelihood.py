"""The variational bound on the likelihood of held-out 8-bit images: its parts in nats, and its terms as measured.

Symbols as in `scheduling_ddpm_cars`: sigma^2, the model's variance of x_s given x_t, is `variance` here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ddpm_cars.calibration import make_probe
from ddpm_cars.data import step_seed
from ddpm_cars.least_cost import (
    WHITE_VARIANCES,
    calibrated_x_0_variance,
    check_variance_type,
    expected_kl_nats,
    posterior,
)
from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler

# Of pixel values 0, 1, ... 255 mapped to [-1, 1].
_HALF_BIN = 1 / 255
# Further out, log_ndtr in float64 loses the digits that its derivative is made of.
_MAX_DEVIATIONS = 1e6
# What decides how x_0_hat is read off the network's output.
_PREDICTION_SETTINGS = (
    "prediction_type",
    "clip_sample",
    "clip_sample_range",
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
)


def gaussian_kl_nats(
    mean_1: torch.Tensor, log_variance_1: torch.Tensor, mean_2: torch.Tensor, log_variance_2: torch.Tensor
) -> torch.Tensor:
    """Compute KL(N(mean_1, variance_1) || N(mean_2, variance_2)) of every element (for Ho et al. 2020, eq. 5).

    KL = (log variance_2 - log variance_1 + variance_1 / variance_2 - 1 + (mean_1 - mean_2)^2 / variance_2) / 2.

    Args:
        mean_1: Any shape, floating point.
        log_variance_1: Natural logarithm, of a shape that broadcasts with the others.
        mean_2: Likewise.
        log_variance_2: Likewise.

    Returns:
        Nats, 0 or more, of the shape that all four broadcast to.
    """
    log_ratio = log_variance_1 - log_variance_2
    return 0.5 * (torch.expm1(log_ratio) - log_ratio + (mean_1 - mean_2).square() * torch.exp(-log_variance_2))


def discretized_gaussian_nll_nats(x_0: torch.Tensor, mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Compute -log p of 8-bit pixels, p the mass that N(mean, variance) has in their bins (Ho et al. 2020, eq. 13).

    The bin of x_0 is [x_0 - 1/255, x_0 + 1/255]; that of -1 is open below and that of 1 above, so the 256 masses add
    up to one. They are computed in float64.

    Args:
        x_0: Values k / 127.5 - 1 with k = 0, 1, ... 255, any shape, float32 or wider: 16 bits cannot tell all of them.
        mean: Floating point, of a shape that broadcasts with the others. Beyond a million standard deviations from a
            bin the result no longer grows.
        log_variance: Natural logarithm, likewise.

    Returns:
        Nats, 0 or more and finite, of the shape that all three broadcast to, in the widest dtype of the three.
    """
    device, dtype = x_0.device, torch.promote_types(torch.promote_types(x_0.dtype, mean.dtype), log_variance.dtype)
    # Apple's devices have no float64.
    home = torch.device("cpu") if device.type == "mps" else device
    x_0, mean, log_variance = (x.to(home).double() for x in (x_0, mean, log_variance))
    one_over_std = torch.exp(-0.5 * log_variance)
    lower, upper = (
        ((x_0 + edge - mean) * one_over_std).clamp(-_MAX_DEVIATIONS, _MAX_DEVIATIONS)
        for edge in (-_HALF_BIN, _HALF_BIN)
    )
    lower = torch.where(x_0 < -1 + _HALF_BIN, -_MAX_DEVIATIONS, lower)
    upper = torch.where(x_0 > 1 - _HALF_BIN, _MAX_DEVIATIONS, upper)
    # Seen from the other side where that is the lower tail, in which cdf values keep their digits.
    mirrored = lower + upper > 0
    lower, upper = torch.where(mirrored, -upper, lower), torch.where(mirrored, -lower, upper)
    log_cdf_upper = torch.special.log_ndtr(upper)
    log_ratio = torch.special.log_ndtr(lower) - log_cdf_upper
    # Bins of no width, all of them beyond the clamps, would be log 0.
    log_ratio = log_ratio.clamp(max=-torch.finfo(torch.float64).tiny)
    log_mass = log_cdf_upper + torch.log(-torch.expm1(log_ratio))
    return -log_mass.to(device, dtype)


@dataclass(frozen=True, eq=False)
class Bound:
    """The variational bound of one chain (Ho et al. 2020, eq. 5), image by image, in bits per dimension.

    Attributes:
        timesteps: int64 (n,), strictly descending: the chain.
        prior_bpd: float64 (N,), KL(q(x_t | x_0) || N(0, I)) at the first timestep.
        terms_bpd: float64 (N, n), one per timestep t: KL(q(x_s | x_t, x_0) || p(x_s | x_t)) with s the next timestep,
            and at the last one the decoder, -log2 p(x_0 | x_t).
    """

    timesteps: np.ndarray
    prior_bpd: np.ndarray
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
    """What one pass of a network over noised images tells.

    Attributes:
        timesteps: int64 (U,), ascending: every timestep that a chain visits.
        eps_mse: float64 (N, U), (eps - eps_hat)^2 per dimension, as x_0_hat says it after clipping:
            alpha_bar_t / (1 - alpha_bar_t) (x_0 - x_0_hat)^2.
        bounds: The bound of every chain, by name.
    """

    timesteps: np.ndarray
    eps_mse: np.ndarray
    bounds: dict[str, Bound]


@torch.no_grad()
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
            whose result is a tensor or has one as `sample`, of C or 2 C channels. The second half is the place of
            log variance that "learned_range" needs, and is left out elsewhere.
        images: x_0, shape (N, C, H, W), on the CPU: k / 127.5 - 1 with k = 0, 1, ... 255, float32, or float64 to have
            everything in it. With float32, errors and terms are float64 all the same.
        schedulers: By name; `timesteps` of each is its chain, as `set_timesteps` left it. They may differ in chain and
            `variance_type` ("fixed_small", "fixed_large", "analytic" without `max_last_noise_grey_levels`,
            "learned_range"), and in nothing that x_t or x_0_hat depend on. None is changed.
        class_labels: int64 (N,), handed to the network; None hands it none.
        indices: The numbers of the images in the whole data set, 0 or more, which decide their noise, so that
            processes can share it; None is 0, 1, ... N - 1.
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
    probe = make_probe(next(iter(schedulers.values())), timesteps=timesteps[::-1].tolist())
    x_0_mse = np.empty((len(images), len(timesteps)))
    for column, t in enumerate(tqdm(timesteps.tolist(), "measuring", unit="timestep", disable=not progress_bar)):
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            x_0 = images[rows]
            eps = _noise(x_0.shape[1:], seed, indices[rows], t).to(x_0.dtype)
            labels = None if class_labels is None else class_labels[rows]
            x_0_hat, place = _predict(unet, probe, x_0, eps, t, labels)
            x_0 = x_0.double()
            x_0_mse[rows, column] = _mean_per_image((x_0 - x_0_hat).square())
            for chain in chains.values():
                chain.measure(rows, t, x_0, x_0_hat, place)
    alpha_bar = probe._alpha_bar[timesteps]
    eps_mse = alpha_bar / (1 - alpha_bar) * x_0_mse
    mean_square = _mean_per_image(images.double().square()).numpy()
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
        self.alpha_bar = scheduler._alpha_bar[self.timesteps]
        self.x_0_weight, beta, beta_tilde = posterior(self.alpha_bar, np.append(self.alpha_bar[1:], 1.0))
        beta_tilde[-1] = beta_tilde[-2] if len(beta) > 1 else beta[-1]
        self.log_beta, self.log_beta_tilde = np.log(beta), np.log(beta_tilde)

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
        self.terms_nats[rows, i] = _mean_per_image(nats)

    def _log_variance(self, i: int, place: torch.Tensor) -> torch.Tensor:
        if self.is_learned:
            if not place.shape[1]:
                raise ValueError(
                    "variance_type 'learned_range' needs a network with twice the channels of the images, and this "
                    "one has as many as they: measure it with 'fixed_small'."
                )
            f = (place + 1) / 2
            return f * self.log_beta[i] + (1 - f) * self.log_beta_tilde[i]
        if self.scheduler.config.variance_type == "analytic":
            return torch.tensor(np.log(calibrated_x_0_variance(self.scheduler)[self.timesteps[i]]))
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


def _noise(shape: Sequence[int], seed: int, indices: Sequence[int], t: int) -> torch.Tensor:
    generator = torch.Generator()
    return torch.stack([torch.randn(shape, generator=generator.manual_seed(step_seed(seed, i, t))) for i in indices])


def _predict(
    unet: Callable[..., Any],
    probe: DDPMCarsScheduler,
    x_0: torch.Tensor,
    eps: torch.Tensor,
    t: int,
    class_labels: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x_0_hat and the second half of the channels, which may be none, in float64."""
    device, dtype = getattr(unet, "device", x_0.device), getattr(unet, "dtype", x_0.dtype)
    x_t = probe.add_noise(x_0, eps, torch.tensor(t))
    more = {} if class_labels is None else {"class_labels": class_labels.to(device)}
    output = unet(x_t.to(device, dtype), torch.full((len(x_0),), t, device=device), **more)
    output = getattr(output, "sample", output).cpu().double()
    num_channels = x_0.shape[1]
    if output.shape[1] not in (num_channels, 2 * num_channels):
        raise ValueError(
            f"The model output has {output.shape[1]} channels; for images with {num_channels} it must have "
            f"{num_channels}, or {2 * num_channels} with a learned variance."
        )
    prediction, place = output[:, :num_channels], output[:, num_channels:]
    return probe._predict_x_0(probe._steps[t], prediction, x_t.double()), place


def _mean_per_image(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1).mean(1)


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
        if not np.array_equal(scheduler._alpha_bar, first._alpha_bar):
            different.append("noise levels")
        if different:
            raise ValueError(
                f"Schedulers {name!r} and {other!r} differ in {different}, but the network runs once for all: "
                "measure them in separate calls."
            )
        start = int(scheduler.timesteps[0])
        if first.config.prediction_type == "epsilon" and scheduler._alpha_bar[start] == 0:
            raise ValueError(
                f"The chain of {other!r} starts at timestep {start}, where alpha_bar is 0 and eps says nothing of "
                "x_0: choose one that starts lower, or a network that predicts v or x_0."
            )
