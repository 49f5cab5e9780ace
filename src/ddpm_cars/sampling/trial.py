"""Whether a scheduler gets from noise to images with a model, tried out on data whose denoiser is known exactly."""

import copy
import inspect
import math
from typing import Any, get_args

import numpy as np
import torch

from ddpm_cars.diffusion.seeds import seeded_generator
from ddpm_cars.scheduling_ddpm_cars import NOT_IMPLEMENTED, BetaSchedule, DDPMCarsScheduler, PredictionType, betas_of

MEANS, STDS = (0.3, -0.5), (0.2, 0.3)
"""x_0 ~ N(mean, std^2): far enough from 0 and 1 to tell it from noise, and within what clipping leaves alone."""
MAX_MEAN_ERROR_STDS = 0.5
MAX_STD_RATIO = 1.5
"""Few steps make the standard deviation too small, which is their error alone; noise that is left makes it larger."""
_NUM_SAMPLES = 256
_ENOUGH_STEPS = 50


class GaussianNetwork:
    """The best network there can be for x_0 ~ N(mean, std^2), with the noise levels of a model.

    E[x_0 | x_t] = mean + sqrt(alpha_bar_t) std^2 (x_t - sqrt(alpha_bar_t) mean) / variance, and E[eps | x_t] =
    sqrt(1 - alpha_bar_t) (x_t - sqrt(alpha_bar_t) mean) / variance, where variance = alpha_bar_t std^2 +
    1 - alpha_bar_t; v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0 (Salimans & Ho 2022, appendix D).

    Args:
        alpha_bar: The noise levels of the model, float64 (T,).
        prediction_type: What the model predicts: "epsilon", "sample" or "v_prediction".
        mean: The mean of the data: a number, or of any shape that x_t can be computed with.
        std: The standard deviation of the data, as `mean`.
    """

    def __init__(self, alpha_bar: np.ndarray, prediction_type: str, mean: Any, std: Any):
        self.alpha_bar, self.prediction_type = alpha_bar, prediction_type
        self.mean, self.std = mean, std
        # Between two timesteps, where some schedulers look, the logarithm of the signal-to-noise ratio is linear.
        self.log_snr = np.log(np.maximum(alpha_bar, 1e-30)) - np.log(np.maximum(1 - alpha_bar, 1e-30))

    def start(self, z: torch.Tensor) -> torch.Tensor:
        """Turn z ~ N(0, 1) into x_T of the last timestep, which is N(0, 1) only where noising ends in it."""
        alpha_bar = float(self.alpha_bar[-1])
        return alpha_bar**0.5 * self.mean + (alpha_bar * self.std**2 + 1 - alpha_bar) ** 0.5 * z

    def __call__(self, x_t: torch.Tensor, timestep: float) -> torch.Tensor:
        """Return what the model predicts from x_t, of any shape, at a timestep in [0, T - 1], whole or not."""
        if timestep == int(timestep):
            alpha_bar = float(self.alpha_bar[int(timestep)])
        else:
            alpha_bar = float(1 / (1 + np.exp(-np.interp(timestep, np.arange(len(self.log_snr)), self.log_snr))))
        a, b = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        distance = (x_t - a * self.mean) / (alpha_bar * self.std**2 + 1 - alpha_bar)
        x_0, eps = self.mean + a * self.std**2 * distance, b * distance
        return {"epsilon": eps, "sample": x_0, "v_prediction": a * eps - b * x_0}[self.prediction_type]


def draw_numbers(scheduler: Any, num_inference_steps: int) -> torch.Tensor:
    """Return what a scheduler makes of noise with the perfect network for each N(mean, std^2), float32 (256, 2).

    Args:
        scheduler: The scheduler, with the noise levels that the model was trained with. It is not changed.
        num_inference_steps: The number of denoising steps, 1 or more.

    Raises:
        Exception: Whatever the scheduler raises where it cannot take these steps.
    """
    config = scheduler.config
    # Each distribution is a channel.
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEANS, STDS))
    network = GaussianNetwork(_noise_levels(scheduler), config.prediction_type, mean, std)
    own = copy.deepcopy(scheduler, {id(config): config})
    if "variance_type" in vars(own):
        # How much noise a step adds is for people to choose, and what was measured or learned fits other data.
        own.register_to_config(variance_type="fixed_small")
        own.variance_type = "fixed_small"
    generator = seeded_generator(0)
    given = {"generator": generator} if "generator" in inspect.signature(own.step).parameters else {}
    own.set_timesteps(num_inference_steps)
    z = torch.randn(_NUM_SAMPLES, len(MEANS), 1, 1, generator=generator)
    x_t = network.start((z - z.mean(0)) / z.std(0)) * own.init_noise_sigma
    # Some schedulers draw from the generator of all.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for t in own.timesteps:
            output = network(own.scale_model_input(x_t, t), float(t)).to(x_t.dtype)
            x_t = own.step(output, t, x_t, **given).prev_sample
    return x_t.flatten(1)


def fault_of(scheduler: Any, num_inference_steps: int) -> str | None:
    """Say why a scheduler cannot draw from its model in a number of steps.

    Args:
        scheduler: A scheduler whose config says what the model was trained with. It is not changed.
        num_inference_steps: The number of denoising steps, 1 or more.

    Returns:
        The reason; None if it can, or if its noise levels are not those of `DDPMCarsScheduler`, so that nobody knows.
    """
    config = scheduler.config
    kinds = {"beta_schedule": get_args(BetaSchedule), "prediction_type": get_args(PredictionType)}
    allowed = kinds | {name: (None, value) for name, value in NOT_IMPLEMENTED.items()}
    if any(config.get(name) not in values for name, values in allowed.items()):
        return None
    try:
        drawn = draw_numbers(*_shortened(scheduler, num_inference_steps))
    except Exception as error:
        # Schedulers of diffusers raise whatever their arithmetic runs into.
        reason = " ".join(str(error).split())[:200]
        return f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    stds = torch.tensor(STDS)
    mean_errors, std_ratios = (drawn.mean(0) - torch.tensor(MEANS)).abs() / stds, drawn.std(0) / stds
    # NaN is no good result either.
    if mean_errors.max() <= MAX_MEAN_ERROR_STDS and std_ratios.max() <= MAX_STD_RATIO:
        return None
    return "what it draws is noise, whatever the network predicts"


def _noise_levels(scheduler: Any) -> np.ndarray:
    if isinstance(scheduler, DDPMCarsScheduler):
        return scheduler.alphas_cumprod_float64
    return torch.as_tensor(scheduler.alphas_cumprod).double().numpy()


def _shortened(scheduler: Any, num_inference_steps: int) -> tuple[Any, int]:
    """Return a scheduler with every k-th noise level, and k times fewer steps, which lead through the same levels.

    Some schedulers of diffusers compute for milliseconds in every step.
    """
    common = math.gcd(scheduler.config.num_train_timesteps, num_inference_steps)
    k = next(k for k in range(max(1, num_inference_steps // _ENOUGH_STEPS), 0, -1) if common % k == 0)
    if k == 1 or isinstance(scheduler, DDPMCarsScheduler):
        return scheduler, num_inference_steps
    alpha_bar = _noise_levels(scheduler)[k - 1 :: k]
    levels = {"num_train_timesteps": len(alpha_bar), "trained_betas": betas_of(alpha_bar).tolist()}
    if "rescale_betas_zero_snr" in scheduler.config:
        levels["rescale_betas_zero_snr"] = False
    return type(scheduler).from_config(scheduler.config, **levels), num_inference_steps // k
