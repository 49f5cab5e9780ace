"""Noise schedules: how much noise every timestep adds, in float64, and which timesteps a sampling chain visits."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid"]
TimestepSpacing = Literal["linspace", "leading", "trailing"]
# These end at the same alpha_bar at any T.
SCHEDULES_OF_ANY_T = ("squaredcos_cap_v2", "laplace")
# Where alpha_bar_T exceeds this, N(0, I) is visibly not where the forward process ends.
MAX_TERMINAL_ALPHA_BAR = 0.01


def make_betas(beta_schedule: str, beta_start: float, beta_end: float, num_train_timesteps: int) -> np.ndarray:
    """Return the betas of a named schedule, float64 (T,), which are those of diffusers' `DDPMScheduler`."""
    if beta_schedule == "linear":
        return np.linspace(beta_start, beta_end, num_train_timesteps)
    if beta_schedule == "scaled_linear":
        return np.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps) ** 2
    if beta_schedule == "squaredcos_cap_v2":
        return _betas_from_alpha_bar(num_train_timesteps, _cosine_alpha_bar)
    if beta_schedule == "laplace":
        return _betas_from_alpha_bar(num_train_timesteps, _laplace_alpha_bar)
    if beta_schedule == "sigmoid":
        return beta_start + (beta_end - beta_start) / (1 + np.exp(-np.linspace(-6, 6, num_train_timesteps)))
    raise NotImplementedError(f"beta_schedule is {beta_schedule!r}; choose one of {get_args(BetaSchedule)}")


def _betas_from_alpha_bar(num_train_timesteps: int, alpha_bar: Callable[[float], float]) -> np.ndarray:
    """beta_i = min(1 - alpha_bar((i + 1) / T) / alpha_bar(i / T), 0.999), Nichol & Dhariwal 2021, section 3.2."""
    u = [i / num_train_timesteps for i in range(num_train_timesteps + 1)]
    return np.array([min(1 - alpha_bar(b) / alpha_bar(a), 0.999) for a, b in itertools.pairwise(u)])


def _cosine_alpha_bar(u: float) -> float:
    return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2


def _laplace_alpha_bar(u: float) -> float:
    log_snr = -0.5 * math.copysign(1, 0.5 - u) * math.log(1 - 2 * abs(0.5 - u) + 1e-6)
    return math.sqrt(1 / (1 + math.exp(-log_snr)))


def checked_betas(trained_betas: Any, num_train_timesteps: int) -> np.ndarray:
    """Return betas that somebody has given as float64 (T,).

    Args:
        trained_betas: T numbers, the last in (0, 1] and the others in (0, 1): a list, a tuple, an array or a tensor.
        num_train_timesteps: T.

    Raises:
        ValueError: If they are no such numbers.
    """
    try:
        betas = np.array(trained_betas, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"trained_betas must be a list of numbers, and is of type {type(trained_betas).__name__}."
        ) from error
    if betas.ndim != 1:
        raise ValueError(f"trained_betas has the shape {betas.shape}; it must be a list of T numbers.")
    if len(betas) != num_train_timesteps:
        raise ValueError(
            f"trained_betas has {len(betas)} values and num_train_timesteps is {num_train_timesteps}: set it to "
            f"{len(betas)}."
        )
    # Zero terminal SNR makes the last beta 1. NaN is not in order either.
    wrong = ~((betas > 0) & (betas < 1))
    wrong[-1] = not 0 < betas[-1] <= 1
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(f"trained_betas[{i}] is {betas[i]:.6g}; every beta must be inside (0, 1).")
    return betas


def scaled_betas(beta_schedule: str, beta_start: float, beta_end: float, num_train_timesteps: int) -> np.ndarray:
    """Return betas that end as near to pure noise as those of 1000 timesteps: multiplied by 1000 / T.

    Schedules that end alike at any T are not scaled. A ValueError says where a beta would be 1 or more.
    """
    betas = make_betas(beta_schedule, beta_start, beta_end, num_train_timesteps)
    if beta_schedule in SCHEDULES_OF_ANY_T:
        return betas
    betas = betas * (1000 / num_train_timesteps)
    if betas.max() >= 1:
        raise ValueError(
            f"scale_betas_for_timesteps with {num_train_timesteps} timesteps makes a beta of {betas.max():.4g}, which "
            f"must be below 1: set num_train_timesteps above {1000 * beta_end:.4g}, or choose another beta_schedule."
        )
    return betas


def are_scaled_betas(betas: Any, config: Mapping[str, Any]) -> bool:
    """Tell whether betas, or None, are those that `scaled_betas` makes of the other settings of a config."""
    names = ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps")
    if betas is None or not config.get("scale_betas_for_timesteps") or not set(names) <= config.keys():
        return False
    return np.array_equal(betas, scaled_betas(*(config[name] for name in names)))


def rescale_zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Shift and scale sqrt(alpha_bar) so that it ends at 0 (Lin et al. 2023, arXiv:2305.08891, algorithm 1)."""
    root = np.sqrt(np.cumprod(1 - betas))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return betas_of(root**2)


def betas_of(alpha_bar: np.ndarray) -> np.ndarray:
    """Return the betas (T,) of which alpha_bar (T,) is the product of 1 - beta (Ho et al. 2020, eq. 4)."""
    return 1 - alpha_bar / np.append(1.0, alpha_bar[:-1])


def mistakes_in_noise_schedule(config: Mapping[str, Any], betas: np.ndarray) -> Iterator[str]:
    """Yield a sentence for everything about a noise schedule that sampling survives but that is probably a mistake."""
    T, alpha_bar_T = len(betas), float(np.cumprod(1 - betas)[-1])
    # Zero terminal SNR makes the last beta 1. NaN is not in order either.
    if not (betas.min() > 0 and betas[:-1].max(initial=0) < 1 and betas[-1] <= 1):
        yield (
            f"The betas run from {betas.min():.4g} to {betas.max():.4g}, but must be inside (0, 1): sampling will "
            "give NaN. Check beta_start and beta_end."
        )
    elif alpha_bar_T > MAX_TERMINAL_ALPHA_BAR and config.get("_init_noise") is None:
        cure = "rescale_betas_zero_snr and prediction_type v_prediction"
        if config["trained_betas"] is None and config["beta_schedule"] not in SCHEDULES_OF_ANY_T:
            fits = betas.max() * 1000 < T
            cure = "scale_betas_for_timesteps" if fits else "beta_schedule squaredcos_cap_v2"
        yield (
            f"With these {T} timesteps alpha_bar_T is {alpha_bar_T:.3g}, a signal-to-noise ratio of "
            f"{alpha_bar_T / (1 - alpha_bar_T):.3g}: noising does not end in N(0, I), where sampling starts, so "
            f"samples turn grey. Train with {cure}; for a model that is already trained, "
            "ddpm-cars calibrate --fit_init_noise, or ddpm_cars.fit_init_noise in Python, measures the noise to start "
            "from."
        )
    elif alpha_bar_T == 0 and config["prediction_type"] == "epsilon":
        yield (
            "At zero terminal SNR (rescale_betas_zero_snr) x_T holds nothing of x_0, so a model that predicts "
            "epsilon cannot take the first step: use prediction_type 'v_prediction' or 'sample'."
        )


def custom_timesteps(timesteps: Sequence[float], num_train_timesteps: int) -> np.ndarray:
    """Return timesteps that somebody has chosen as int64 (n,), or raise ValueError where they make no chain."""
    chosen = np.array(timesteps).astype(np.int64)
    if not np.array_equal(chosen, timesteps):
        raise ValueError(f"`timesteps` must be whole numbers, got {list(timesteps)}.")
    if chosen.size == 0 or np.any(np.diff(chosen) >= 0):
        raise ValueError(f"`timesteps` must be in descending order without repeats, got {list(timesteps)}.")
    if chosen[0] >= num_train_timesteps or chosen[-1] < 0:
        raise ValueError(
            f"`timesteps` must start before `num_train_timesteps`: {num_train_timesteps} and end at 0 or later."
        )
    return chosen


def spaced_timesteps(
    num_inference_steps: float, num_train_timesteps: int, timestep_spacing: str, steps_offset: int
) -> np.ndarray:
    """Spread n timesteps over [0, T - 1], descending int64 (table 2 of Lin et al. 2023, arXiv:2305.08891).

    The offset of "leading" is cut to what fits. A ValueError says where n is no whole number from 1 to T.
    """
    T = num_train_timesteps
    if not 1 <= num_inference_steps <= T or int(num_inference_steps) != num_inference_steps:
        raise ValueError(
            f"`num_inference_steps` is {num_inference_steps}; it must be a whole number from 1 to {T}, the number of "
            "timesteps that the model was trained with (`num_train_timesteps`)."
        )
    n = int(num_inference_steps)
    if timestep_spacing == "linspace":
        return np.linspace(0, T - 1, n).round()[::-1].astype(np.int64)
    if timestep_spacing == "leading":
        ratio = T // n
        offset = min(steps_offset, T - 1 - (n - 1) * ratio)
        return np.arange(n - 1, -1, -1) * ratio + offset
    # "trailing". Rounding errors may make one more, which would be -1.
    return np.round(np.arange(T, 0, -T / n)[:n]).astype(np.int64) - 1
