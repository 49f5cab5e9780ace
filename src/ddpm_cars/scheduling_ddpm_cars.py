"""The DDPM of Ho et al. 2020 as a diffusers scheduler; equation numbers refer to https://arxiv.org/abs/2006.11239.

It travels inside saved models, and so it needs torch, numpy, diffusers and the modules of `portable` only.

Paper symbols: `alpha_bar_t` is the product of `1 - beta` up to t, `s` the timestep that follows t in the sampling
chain (t - 1 when all T are used), `x_0` the clean and `x_t` the noised image, `eps` the noise between them.
"""

import math
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor

from ddpm_cars.portable.forward_process import ForwardProcess, PredictionType, add_scaled_, predicted_x_0
from ddpm_cars.portable.noise_schedules import (
    BetaSchedule,
    TimestepSpacing,
    betas_of,
    checked_betas,
    custom_timesteps,
    make_betas,
    mistakes_in_noise_schedule,
    rescale_zero_terminal_snr,
    scaled_betas,
    spaced_timesteps,
)
from ddpm_cars.portable.saved_config import NOT_IMPLEMENTED
from ddpm_cars.portable.step_tables import Step, StepTables, band_index, dct_matrix
from ddpm_cars.portable.variances import (
    CALIBRATED_VARIANCES,
    LEARNED_VARIANCES,
    VarianceType,
    calibrated_x_0_variance,
    check_calibration,
    interpolated_log_variance,
    posterior,
    posterior_of_chain,
)

__all__ = [
    "CALIBRATED_VARIANCES",
    "LEARNED_VARIANCES",
    "NOT_IMPLEMENTED",
    "BetaSchedule",
    "DDPMCarsScheduler",
    "PredictionType",
    "TimestepSpacing",
    "VarianceType",
    "band_index",
    "betas_of",
    "dct_matrix",
    "interpolated_log_variance",
    "posterior",
    "posterior_of_chain",
]

logger = logging.get_logger(__name__)


# diffusers loads a class by what its module calls `SchedulerMixin`.
class DDPMCarsScheduler(ForwardProcess, SchedulerMixin):
    """Forward noising and ancestral sampling of a denoising diffusion probabilistic model.

    Forward (eq. 4): x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps. Reverse (eq. 6, 7, 15): x_s is drawn
    from N(mean(x_0_hat, x_t), sigma_t^2), and the last step, the one without a successor, adds no noise.

    Every table is float64. Tensors narrower than float32 are mixed in float32 and returned in their own dtype.
    The first arguments, their order and their defaults are those of `diffusers.DDPMScheduler`, so either loads the
    other's config. Settings that sampling can survive but that are probably a mistake are logged as warnings, since a
    scheduler may be handed the config of any pipeline.

    Args:
        num_train_timesteps: T, the number of noise levels, 1 or more.
        beta_start: The variance of the first noise step, in (0, 1).
        beta_end: The variance of the last noise step, in (0, 1).
        beta_schedule: How beta runs from `beta_start` to `beta_end`. "squaredcos_cap_v2" and "laplace" ignore both.
        trained_betas: T betas in (0, 1) that replace the schedule, as a list, a tuple, an array or a tensor. The last
            may be 1. The config holds them as a list.
        variance_type: sigma_t^2. "fixed_small" is (1 - alpha_bar_s) / (1 - alpha_bar_t) beta_t, exact when the data
            is one point; "fixed_large" is beta_t, exact when it is N(0, I); the `_log` forms name the same values.
            "learned" and "learned_range" read it from a second half of the model's output channels. "analytic" adds
            to fixed_small what x_0 still varies by given x_t (Bao et al. 2022, arXiv:2201.06503, theorem 1), and
            "spectral" does so for every band of spatial frequencies; both need `set_calibration`.
        clip_sample: Whether x_0_hat is clipped to [-clip_sample_range, clip_sample_range].
        prediction_type: What the model predicts: eps, x_0 or v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0.
        thresholding: Whether x_0_hat is thresholded per image instead (Saharia et al. 2022, arXiv:2205.11487).
        dynamic_thresholding_ratio: The quantile of |x_0_hat| that thresholding takes as the range, in [0, 1].
        clip_sample_range: The largest magnitude that clipping lets through, above 0.
        sample_max_value: The largest range that thresholding uses, 1 or more.
        timestep_spacing: Which timesteps a shorter chain visits (table 2 of arXiv:2305.08891).
        steps_offset: Added to the timesteps of "leading", 0 or more.
        rescale_betas_zero_snr: Whether alpha_bar_T is moved to exactly 0.
        scale_betas_for_timesteps: Whether the betas of "linear", "scaled_linear" and "sigmoid" are multiplied by
            1000 / T, so that any T ends as near to pure noise as 1000 does. The result is kept in the config as
            `trained_betas`, from which other schedulers get the same noise levels.
        max_last_noise_grey_levels: Bound on the mean magnitude of the last noise that "analytic" and "spectral" add,
            in steps of 1/255 of the range [-1, 1], above 0, as Bao et al. clip sigma_2; None for data that are not
            images.

    Raises:
        NotImplementedError: If `beta_schedule` is unknown.
        ValueError: If `num_train_timesteps` is below 1, `prediction_type` or `timestep_spacing` is unknown, scaled
            betas leave (0, 1), or other betas are given beside them, or `trained_betas` are not T numbers in (0, 1).
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]
    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: BetaSchedule = "linear",
        trained_betas: np.ndarray | list[float] | torch.Tensor | None = None,
        variance_type: VarianceType = "fixed_small",
        clip_sample: bool = True,
        prediction_type: PredictionType = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: TimestepSpacing = "leading",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        scale_betas_for_timesteps: bool = False,
        max_last_noise_grey_levels: float | None = 1.0,
    ):
        if num_train_timesteps < 1:
            raise ValueError(f"num_train_timesteps is {num_train_timesteps}; it must be 1 or more.")
        for name, choices in (("prediction_type", PredictionType), ("timestep_spacing", TimestepSpacing)):
            if self.config[name] not in get_args(choices):
                raise ValueError(f"{name} is {self.config[name]!r}; choose one of {get_args(choices)}.")
        # The config holds lists and numbers, whatever the arguments are.
        trained_betas, beta_start, beta_end = (self.config[k] for k in ("trained_betas", "beta_start", "beta_end"))
        # beta_end above 1 makes square roots of negative numbers; diffusers carries the NaN along, and so does this.
        with np.errstate(all="ignore"):
            if scale_betas_for_timesteps:
                betas = scaled_betas(beta_schedule, beta_start, beta_end, num_train_timesteps)
                if trained_betas is not None and not np.array_equal(trained_betas, betas):
                    raise ValueError(
                        "trained_betas and scale_betas_for_timesteps=True are two noise schedules; to use the "
                        f"{len(trained_betas)} betas given, pass scale_betas_for_timesteps=False."
                    )
                # Before rescaling, which the classes that read the config do themselves.
                self.register_to_config(trained_betas=betas.tolist())
            elif trained_betas is not None:
                betas = checked_betas(trained_betas, num_train_timesteps)
            else:
                betas = make_betas(beta_schedule, beta_start, beta_end, num_train_timesteps)
            if rescale_betas_zero_snr:
                betas = rescale_zero_terminal_snr(betas)
            for mistake in mistakes_in_noise_schedule(self.config, betas):
                logger.warning(mistake)
            self._use_betas(betas)
        self.one = torch.tensor(1.0)

        self.init_noise_sigma = 1.0
        self.variance_type = variance_type
        self.custom_timesteps = False
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)
        self._tables: StepTables | None = None
        if variance_type not in get_args(VarianceType):
            known = get_args(VarianceType)
            logger.warning(f"variance_type is {variance_type!r}, not one of {known}: using 'fixed_small'.")

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    def scale_model_input(self, sample: torch.Tensor, timestep: int | torch.Tensor | None = None) -> torch.Tensor:
        """Return `sample` as it is: the variance of x_t needs no scaling.

        Args:
            sample: x_t, any shape and dtype.
            timestep: Not used; it is here because other schedulers need it.
        """
        return sample

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: list[int] | None = None,
    ) -> None:
        """Choose the strictly descending timesteps that sampling visits.

        Args:
            num_inference_steps: How many, in [1, T], spaced as `timestep_spacing` says.
            device: Where `self.timesteps` goes; None leaves it on the CPU.
            timesteps: The timesteps themselves, strictly descending integers in [0, T - 1].

        Raises:
            ValueError: If not exactly one of the two is given, a value is out of its range, or the order is wrong.
        """
        config = self.config
        T = config.num_train_timesteps
        if timesteps is not None and num_inference_steps is None:
            chosen = custom_timesteps(timesteps, T)
        elif num_inference_steps is not None and timesteps is None:
            chosen = spaced_timesteps(num_inference_steps, T, config.timestep_spacing, config.steps_offset)
        else:
            raise ValueError("Pass exactly one of `num_inference_steps` and `timesteps` to set_timesteps.")
        self.custom_timesteps = timesteps is not None
        self.num_inference_steps = len(chosen)
        self.timesteps = torch.from_numpy(chosen).to(device)
        self._step_tables(chosen).move_to(self.timesteps.device)

    def _step_tables(self, chosen: np.ndarray | None = None) -> StepTables:
        """Return the coefficients of every step, which are computed once for each value of `self.timesteps`."""
        made_of, tables = (self._noise_levels(), self.timesteps, self.config), self._tables
        if tables is None or not tables.are_of(*made_of):
            # In one assignment: other threads read.
            self._tables = tables = StepTables(*made_of, chosen)
        return tables

    def set_calibration(self, calibration: dict[str, Any] | None) -> None:
        """Install what "analytic" and "spectral" need to know of the model; `ddpm_cars.calibrate` measures it.

        Gamma_t of arXiv:2201.06503 is 1 - eps_mse at t. It is kept in the config, and so survives saving, loading and
        the config of every other scheduler.

        Args:
            calibration: JSON values, or None to forget: "num_train_timesteps" (T); "timesteps", K ascending integers
                in [0, T - 1]; "alphas_cumprod", alpha_bar there; "eps_mse", K times E (eps - eps_hat)^2 per
                dimension, in [0, 1]; "data_variance", that of x_0, which may be missing up to 1. For "spectral" also
                "sample_size" [H, W]; "band_edges", B + 1 ascending radial frequencies from 0 to 1; "colour_axes", C
                orthonormal rows of C; "band_variance", the variance of the data (C, B); "band_eps_mse" (K, C, B).

        Raises:
            ValueError: If it was measured with another T or another noise schedule.
        """
        if calibration is not None:
            check_calibration(calibration, self.alphas_cumprod_float64, self.config.num_train_timesteps)
        self.register_to_config(_calibration=calibration)
        # Equal objects may have other values by now.
        self._tables = None

    def original_sample_variance(self) -> np.ndarray:
        """Return Var(x_0 | x_t) per dimension at every timestep, as the calibration measured it.

        It is what "analytic" samples with, and the mean squared error that is expected of x_0_hat.

        Returns:
            float64 (T,), 0 or more: at most 1, or the variance of the data where that is larger.

        Raises:
            ValueError: If the scheduler has no calibration, or one of other noise levels.
        """
        alpha_bar = self.alphas_cumprod_float64
        calibration = check_calibration(self.config.get("_calibration"), alpha_bar, self.config.num_train_timesteps)
        return calibrated_x_0_variance(calibration, alpha_bar, np.arange(len(alpha_bar)))

    @property
    def noise_std(self) -> np.ndarray:
        """sigma_t of every step of the chain, float64 (n,) in the order of `timesteps`, 0 for the last one.

        A learned variance is not known beforehand; it counts as "fixed_small". "spectral" counts as "analytic", of
        which its bands are corrections.

        Raises:
            ValueError: If the variance needs a calibration that is missing or does not fit.
        """
        return self._step_tables().noise_std.copy()

    def previous_timestep(self, timestep: int | torch.Tensor) -> torch.Tensor:
        """Return the timestep that follows `timestep` in the sampling chain, -1 after the last one.

        Args:
            timestep: One of `self.timesteps`: an int, or an integer tensor of shape () or (batch,).

        Returns:
            An int64 tensor of the shape and on the device of `timestep`.

        Raises:
            ValueError: If a timestep on the CPU is not one of `self.timesteps`.
        """
        successor = self._step_tables().at(timestep, ndim=1).successor
        return torch.as_tensor(successor).long()

    def _get_variance(
        self,
        t: int | torch.Tensor,
        predicted_variance: torch.Tensor | None = None,
        variance_type: str | None = None,
    ) -> torch.Tensor | None:
        """Return what stock's method of this name returns; sampling here does not use it.

        Its kind depends on the type: a standard deviation for "fixed_small_log", a log variance for
        "learned_range", else a variance. "fixed_large_log" gives the variance too, where stock's is not usable.
        """
        step = self._step_tables().at(t, ndim=1)
        variance_type = variance_type or self.config.variance_type
        if variance_type == "learned":
            return predicted_variance
        if variance_type == "learned_range":
            return _log_variance(step, predicted_variance)
        value = step.beta_variance if variance_type.startswith("fixed_large") else step.beta_tilde_variance
        if variance_type == "fixed_small_log":
            value = value**0.5
        return torch.as_tensor(value, dtype=torch.float32)

    def _scale_noise(self, noise: torch.Tensor, step: Step, predicted_variance: torch.Tensor | None) -> torch.Tensor:
        """Return sigma_t z in the memory of z where that is possible."""
        if predicted_variance is None:
            return noise.mul_(step.noise_std)
        predicted_variance = predicted_variance.to(noise.dtype)
        if self.config.variance_type == "learned":
            std = predicted_variance**0.5
        else:
            std = torch.exp(0.5 * _log_variance(step, predicted_variance))
        # What is not finite in the last step, which -1 marks, is not used either.
        if isinstance(step.successor, torch.Tensor):
            std = std.masked_fill(step.successor < 0, 0)
        elif step.successor < 0:
            std = torch.zeros_like(std)
        return std * noise

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> DDPMSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """Draw x_s from x_t: mean of eq. 7 at x_0_hat (eq. 15), plus sigma_t times fresh noise (eq. 6).

        Args:
            model_output: What the model predicts from x_t, the shape of `sample`, floating point. With a learned
                variance it has twice the channels; the second half is the variance, or its place in [-1, 1]
                between log beta_tilde_t and log beta_t ("learned_range").
            timestep: t, one of `self.timesteps`: a number, or an integer tensor of shape () or (batch,).
            sample: x_t, shape (batch, channels, ...), floating point.
            generator: Where the noise comes from, or one generator per sample.
            return_dict: Whether a `DDPMSchedulerOutput` is returned, else a tuple of its two values.

        Returns:
            `prev_sample` (x_s) and `pred_original_sample` (x_0_hat), in the wider dtype of the two inputs.

        Raises:
            ValueError: If `timestep` is on the CPU and not one of `self.timesteps`, if `prediction_type` is unknown,
                or if the channels of `model_output` do not fit the variance type.
        """
        variance_type, predicted_variance = self.config.variance_type, None
        num_channels = sample.shape[1] * (2 if variance_type in LEARNED_VARIANCES else 1)
        if model_output.shape[1] != num_channels:
            raise ValueError(
                f"variance_type {variance_type!r} with a sample of {sample.shape[1]} channels needs a model output of "
                f"{num_channels} channels, but it has {model_output.shape[1]}."
            )
        if variance_type in LEARNED_VARIANCES:
            model_output, predicted_variance = model_output.split(sample.shape[1], dim=1)
        tables = self._step_tables()
        step = tables.at(timestep, sample.ndim, sample.device)

        dtype = torch.promote_types(sample.dtype, model_output.dtype)
        mixing_dtype = torch.promote_types(dtype, torch.float32)
        varies = isinstance(step.noise_std, torch.Tensor)
        if varies:
            step = Step(*(column.to(mixing_dtype) for column in step))
        x_t = sample.to(mixing_dtype)
        output = model_output.to(mixing_dtype)
        x_0_hat = self._clipped(predicted_x_0(self.config.prediction_type, output, x_t, *step[:3]), output)
        # Noise is drawn wherever stock draws it, so that equal seeds give equal images.
        if varies or int(timestep) > 0:
            noise = _white_noise(model_output, generator).to(mixing_dtype)
            if tables.band_noise is not None:
                x_s = tables.band_noise(timestep, noise) + step.noise_std * noise
            else:
                # A fresh tensor costs more than the arithmetic: the sum grows in the memory of the noise.
                x_s = self._scale_noise(noise, step, predicted_variance)
            x_s = add_scaled_(x_s, step.x_0_weight, x_0_hat)
        else:
            x_s = step.x_0_weight * x_0_hat
        x_s = add_scaled_(x_s, step.x_t_weight, x_t)

        x_s, x_0_hat = x_s.to(dtype), x_0_hat.to(dtype)
        if not return_dict:
            return x_s, x_0_hat
        return DDPMSchedulerOutput(prev_sample=x_s, pred_original_sample=x_0_hat)


def _white_noise(like: torch.Tensor, generator: Any) -> torch.Tensor:
    """Draw z ~ N(0, I) of the shape, dtype and device of a tensor, as diffusers does, without waiting for a GPU."""
    if isinstance(generator, Sequence):
        generator = list(generator)
    first = generator[0] if isinstance(generator, list) and generator else generator
    if like.is_cuda and isinstance(first, torch.Generator) and first.device.type == "cpu":
        # From pinned memory the copy goes on by itself.
        noise = randn_tensor(like.shape, generator, torch.device("cpu"), like.dtype).pin_memory()
        return noise.to(like.device, non_blocking=True)
    return randn_tensor(like.shape, generator, like.device, like.dtype)


def _log_variance(step: Step, place: Any) -> Any:
    log = torch.log if isinstance(step.beta_variance, torch.Tensor) else math.log
    return interpolated_log_variance(place, log(step.beta_variance), log(step.beta_tilde_variance))
