"""The variance of the reverse step: the posterior, the kinds there are, and what a calibration says of them.

Symbols as in `scheduling_ddpm_cars`; equation numbers without a source refer to Ho et al. 2020.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

VarianceType = Literal[
    "fixed_small",
    "fixed_small_log",
    "fixed_large",
    "fixed_large_log",
    "learned",
    "learned_range",
    "analytic",
    "spectral",
]
LEARNED_VARIANCES = ("learned", "learned_range")
CALIBRATED_VARIANCES = ("analytic", "spectral")


class Posterior(NamedTuple):
    """q(x_s | x_t, x_0) = N(x_0_weight x_0 + x_t_weight x_t, beta_tilde), and the variance of x_t given x_s."""

    x_0_weight: Any  # sqrt(alpha_bar_s) beta / (1 - alpha_bar_t)
    x_t_weight: Any  # sqrt(alpha_bar_t / alpha_bar_s) (1 - alpha_bar_s) / (1 - alpha_bar_t)
    beta: Any  # 1 - alpha_bar_t / alpha_bar_s
    beta_tilde: Any  # (1 - alpha_bar_s) / (1 - alpha_bar_t) beta


def posterior(alpha_bar_t: Any, alpha_bar_s: Any) -> Posterior:
    """Compute what q(x_s | x_t, x_0) is made of (eq. 7, for a step from t to any s).

    alpha_bar_t is in [0, 1) and alpha_bar_s in (alpha_bar_t, 1], 1 for x_0 itself: float64 of shapes that broadcast.
    """
    alpha = alpha_bar_t / alpha_bar_s
    beta = 1 - alpha
    return Posterior(
        x_0_weight=np.sqrt(alpha_bar_s) * beta / (1 - alpha_bar_t),
        x_t_weight=np.sqrt(alpha) * (1 - alpha_bar_s) / (1 - alpha_bar_t),
        beta=beta,
        beta_tilde=(1 - alpha_bar_s) / (1 - alpha_bar_t) * beta,
    )


def posterior_of_chain(alpha_bar: np.ndarray) -> Posterior:
    """Compute the posterior of every step of a chain to x_0 from its alpha_bar, float64 (n,), ascending in [0, 1).

    The posterior of the last step has no variance, so there that of the step before stands in, or beta in a chain of
    one step, as in the code of Nichol & Dhariwal 2021 (arXiv:2102.09672).
    """
    chain = posterior(alpha_bar, np.append(alpha_bar[1:], 1.0))
    chain.beta_tilde[-1] = chain.beta_tilde[-2] if len(alpha_bar) > 1 else chain.beta[-1]
    return chain


def interpolated_log_variance(place: Any, log_beta: Any, log_beta_tilde: Any) -> Any:
    """Return log sigma^2 = f log beta + (1 - f) log beta_tilde, f = (v + 1) / 2 (arXiv:2102.09672, eq. 15).

    v is what a network with "learned_range" predicts beside the mean, in [-1, 1] where it is trained well.
    """
    f = (place + 1) / 2
    return f * log_beta + (1 - f) * log_beta_tilde


def check_calibration(
    calibration: Mapping[str, Any] | None, alpha_bar: np.ndarray, num_train_timesteps: int
) -> Mapping[str, Any]:
    """Return a calibration, or raise ValueError if it is missing, of other noise levels, or not complete."""
    if calibration is None:
        raise ValueError(
            "The scheduler has no calibration, which says how far x_0_hat is from x_0 and which 'analytic' and "
            "'spectral' depend on: measure it with ddpm_cars.calibrate(unet, images, scheduler), or sample with "
            "'fixed_small'."
        )
    measured_T = calibration["num_train_timesteps"]
    if measured_T != num_train_timesteps:
        raise ValueError(
            f"The calibration was measured with {measured_T} timesteps, not {num_train_timesteps}: calibrate again."
        )
    t, measured = np.asarray(calibration["timesteps"]), np.asarray(calibration["alphas_cumprod"])
    for name in ("alphas_cumprod", "eps_mse", "band_eps_mse"):
        if len(calibration.get(name, t)) != len(t):
            raise ValueError(
                f"The calibration has {len(t)} timesteps but {len(calibration[name])} values of {name}: both must be "
                "as many."
            )
    wrong = t[~np.isclose(alpha_bar[t], measured, rtol=1e-4, atol=1e-12)]
    if wrong.size:
        raise ValueError(
            f"The calibration was measured with another noise schedule (alphas_cumprod differs at timestep "
            f"{wrong[0]}): calibrate again."
        )
    return calibration


def calibrated_x_0_variance(calibration: Mapping[str, Any], alpha_bar: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return Var(x_0 | x_t) per dimension at timesteps t, integers (n,), from noise levels alpha_bar, float64 (T,).

    The result is float64 (n,), at most 1, or the variance of the data where that is larger.
    """
    variance = _x_0_variance(alpha_bar, t, np.asarray(calibration["timesteps"]), calibration["eps_mse"])
    # A posterior never varies by more than the data, and images in [-1, 1] by no more than 1.
    return np.clip(variance, 0, max(1.0, calibration.get("data_variance", 1.0)))


def calibrated_band_variance(calibration: Mapping[str, Any], alpha_bar: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return Var(x_0 | x_t) of every colour axis and band, float64 (n, C, B), at most the variance of the data."""
    if "band_eps_mse" not in calibration:
        raise ValueError("The calibration has no bands, which 'spectral' needs: calibrate again with num_bands.")
    variance = _x_0_variance(alpha_bar, t, np.asarray(calibration["timesteps"]), calibration["band_eps_mse"])
    return np.minimum(variance, np.asarray(calibration["band_variance"]))


def _x_0_variance(alpha_bar: np.ndarray, t: np.ndarray, known: np.ndarray, eps_mse: Any) -> np.ndarray:
    """Return Var(x_0 | x_t) = (1 - alpha_bar) / alpha_bar eps_mse at every t from eps_mse, (K, ...), at `known`.

    It follows from x_0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar) (eq. 4). Between known timesteps the
    variance of Gaussian data with the same eps_mse is interpolated, which is exact for such data.
    """
    has_signal = alpha_bar[known] > 0
    known, alpha_bar_known = known[has_signal], alpha_bar[known[has_signal]]
    mse = np.clip(np.asarray(eps_mse, dtype=np.float64)[has_signal], 1e-12, 1 - 1e-12)
    columns = mse.reshape(len(known), -1).T
    data_variance = [np.log(m / (1 - m)) - np.log(alpha_bar_known / (1 - alpha_bar_known)) for m in columns]
    data_variance = np.exp([np.interp(t, known, log_v) for log_v in data_variance]).T
    alpha_bar_t = alpha_bar[t][:, None]
    variance = data_variance * (1 - alpha_bar_t) / (alpha_bar_t * data_variance + 1 - alpha_bar_t)
    return variance.reshape(len(t), *mse.shape[1:])


def calibrated_std(
    x_0_variance: np.ndarray, x_0_weight: np.ndarray, beta_tilde: np.ndarray, max_last_noise_grey_levels: float | None
) -> np.ndarray:
    """Return sigma of every step of a chain, 0 for the last: beta_tilde + x_0_weight^2 x_0_variance is its square.

    That is theorem 1 of arXiv:2201.06503, for one or many x_0_variance per step, float64 (n, ...). The other arrays
    are those of the posterior, (n,).
    """
    per_step = (-1, *[1] * (x_0_variance.ndim - 1))
    std = np.sqrt(beta_tilde.reshape(per_step) + x_0_weight.reshape(per_step) ** 2 * x_0_variance)
    if max_last_noise_grey_levels is not None and len(std) > 1:
        # E|z| is sqrt(2 / pi), and a grey level is 2 / 255.
        std[-2] = np.minimum(std[-2], max_last_noise_grey_levels * 2 / 255 * math.sqrt(math.pi / 2))
    std[-1] = 0.0
    return std
