"""The DDPM of Ho et al. 2020 as a diffusers scheduler; equation numbers refer to https://arxiv.org/abs/2006.11239.

The file stands alone: it needs torch, numpy and diffusers only, so that it can travel inside a model repository.

Paper symbols: `alpha_bar_t` is the product of `1 - beta` up to t, `s` the timestep that follows t in the sampling
chain (t - 1 when all T are used), `x_0` the clean and `x_t` the noised image, `eps` the noise between them.
"""

import itertools
import math
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor

logger = logging.get_logger(__name__)

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid"]
PredictionType = Literal["epsilon", "sample", "v_prediction"]
TimestepSpacing = Literal["linspace", "leading", "trailing"]
VarianceType = Literal["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"]
LEARNED_VARIANCES = ("learned", "learned_range")


class _Step(NamedTuple):
    """What the reverse step t -> s needs: floats for one timestep, float64 arrays or tensors for many."""

    sqrt_alpha_bar: Any
    sqrt_one_minus_alpha_bar: Any
    x_0_weight: Any
    x_t_weight: Any
    beta_variance: Any
    beta_tilde_variance: Any
    noise_std: Any  # of the fixed variances; 0 where t has no successor
    successor: Any  # s, or -1


def _betas_from_alpha_bar(num_train_timesteps: int, alpha_bar: Any) -> np.ndarray:
    """beta_i = min(1 - alpha_bar((i + 1) / T) / alpha_bar(i / T), 0.999), Nichol & Dhariwal 2021, section 3.2."""
    u = [i / num_train_timesteps for i in range(num_train_timesteps + 1)]
    return np.array([min(1 - alpha_bar(b) / alpha_bar(a), 0.999) for a, b in itertools.pairwise(u)])


def _cosine_alpha_bar(u: float) -> float:
    return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2


def _laplace_alpha_bar(u: float) -> float:
    log_snr = -0.5 * math.copysign(1, 0.5 - u) * math.log(1 - 2 * abs(0.5 - u) + 1e-6)
    return math.sqrt(1 / (1 + math.exp(-log_snr)))


def _make_betas(beta_schedule: str, beta_start: float, beta_end: float, num_train_timesteps: int) -> np.ndarray:
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


def _rescale_zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Shift and scale sqrt(alpha_bar) so that it ends at 0 (Lin et al. 2023, arXiv:2305.08891, algorithm 1)."""
    root = np.sqrt(np.cumprod(1 - betas))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha_bar = root**2
    return 1 - np.concatenate([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])


class DDPMCarsScheduler(SchedulerMixin, ConfigMixin):
    """Forward noising and ancestral sampling of a denoising diffusion probabilistic model.

    Forward (eq. 4): x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps. Reverse (eq. 6, 7, 15): x_s is drawn
    from N(mean(x_0_hat, x_t), sigma_t^2), and the last step, the one without a successor, adds no noise.

    Every table is float64. Tensors narrower than float32 are mixed in float32 and returned in their own dtype.
    Arguments, their order and their defaults are those of `diffusers.DDPMScheduler`, so either loads the other's
    config.

    Args:
        num_train_timesteps: T, the number of noise levels, 1 or more.
        beta_start: The variance of the first noise step, in (0, 1).
        beta_end: The variance of the last noise step, in (0, 1).
        beta_schedule: How beta runs from `beta_start` to `beta_end`. "squaredcos_cap_v2" and "laplace" ignore both.
        trained_betas: T betas that replace the schedule.
        variance_type: sigma_t^2. "fixed_small" is (1 - alpha_bar_s) / (1 - alpha_bar_t) beta_t, exact when the data
            is one point; "fixed_large" is beta_t, exact when it is N(0, I); the `_log` forms name the same values.
            "learned" and "learned_range" read it from a second half of the model's output channels.
        clip_sample: Whether x_0_hat is clipped to [-clip_sample_range, clip_sample_range].
        prediction_type: What the model predicts: eps, x_0 or v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0.
        thresholding: Whether x_0_hat is thresholded per image instead (Saharia et al. 2022, arXiv:2205.11487).
        dynamic_thresholding_ratio: The quantile of |x_0_hat| that thresholding takes as the range, in [0, 1].
        clip_sample_range: The largest magnitude that clipping lets through, above 0.
        sample_max_value: The largest range that thresholding uses, 1 or more.
        timestep_spacing: Which timesteps a shorter chain visits (table 2 of arXiv:2305.08891).
        steps_offset: Added to the timesteps of "leading", 0 or more.
        rescale_betas_zero_snr: Whether alpha_bar_T is moved to exactly 0.

    Raises:
        NotImplementedError: If `beta_schedule` is unknown.
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
        trained_betas: np.ndarray | list[float] | None = None,
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
    ):
        if variance_type not in get_args(VarianceType):
            # A scheduler may be handed the config of any pipeline, so it follows stock here and says so.
            logger.warning(
                f"variance_type is {variance_type!r}, not one of {get_args(VarianceType)}: using 'fixed_small'."
            )
        # beta_end above 1 makes square roots of negative numbers; stock carries the NaN along, and so does this.
        with np.errstate(all="ignore"):
            if trained_betas is not None:
                betas = np.array(trained_betas, dtype=np.float64)
            else:
                betas = _make_betas(beta_schedule, beta_start, beta_end, num_train_timesteps)
            if rescale_betas_zero_snr:
                betas = _rescale_zero_terminal_snr(betas)
            self._alpha_bar = np.cumprod(1 - betas)
        # Read by pipelines and training scripts, which expect float32; nothing here computes with them.
        self.betas = torch.from_numpy(betas).float()
        self.alphas = torch.from_numpy(1 - betas).float()
        self.alphas_cumprod = torch.from_numpy(self._alpha_bar).float()
        self.one = torch.tensor(1.0)

        self.init_noise_sigma = 1.0
        self.variance_type = variance_type
        self.custom_timesteps = False
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)
        self._tables_for: tuple[torch.Tensor | None, str] = (None, variance_type)
        self._marginal_tables: dict[torch.device, torch.Tensor] = {}

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
        T = self.config.num_train_timesteps
        if timesteps is not None and num_inference_steps is None:
            chosen = np.array(timesteps, dtype=np.int64)
            if chosen.size == 0 or np.any(np.diff(chosen) >= 0):
                raise ValueError(f"`timesteps` must be in descending order without repeats, got {list(timesteps)}.")
            if chosen[0] >= T or chosen[-1] < 0:
                raise ValueError(f"`timesteps` must start before `num_train_timesteps`: {T} and end at 0 or later.")
        elif num_inference_steps is not None and timesteps is None:
            if not 1 <= num_inference_steps <= T:
                raise ValueError(
                    f"`num_inference_steps` is {num_inference_steps}; it must be from 1 to {T}, the number of "
                    "timesteps that the model was trained with (`num_train_timesteps`)."
                )
            chosen = self._spaced_timesteps(num_inference_steps)
        else:
            raise ValueError("Pass exactly one of `num_inference_steps` and `timesteps` to set_timesteps.")
        self.custom_timesteps = timesteps is not None
        self.num_inference_steps = len(chosen)
        self.timesteps = torch.from_numpy(chosen).to(device)
        self._refresh_tables()

    def _spaced_timesteps(self, n: int) -> np.ndarray:
        T, spacing = self.config.num_train_timesteps, self.config.timestep_spacing
        if spacing == "linspace":
            return np.linspace(0, T - 1, n).round()[::-1].astype(np.int64)
        if spacing == "leading":
            ratio = T // n
            # An offset that would leave [0, T - 1] is cut to what fits.
            offset = min(self.config.steps_offset, T - 1 - (n - 1) * ratio)
            return np.arange(n - 1, -1, -1) * ratio + offset
        if spacing == "trailing":
            return np.round(T - np.arange(n) * (T / n)).astype(np.int64) - 1
        raise ValueError(f"timestep_spacing is {spacing!r}; choose one of {get_args(TimestepSpacing)}.")

    def _refresh_tables(self) -> None:
        """Compute the coefficients of every chosen step, once for each value of `self.timesteps`."""
        variance_type = self.config.variance_type
        if (
            self._tables_for is not None
            and self._tables_for[0] is self.timesteps
            and self._tables_for[1] == variance_type
        ):
            return
        t = self.timesteps.cpu().numpy()
        s = np.append(t[1:], -1)
        with np.errstate(all="ignore"):
            alpha_bar_t = self._alpha_bar[t]
            alpha_bar_s = np.where(s >= 0, self._alpha_bar[s], 1.0)
            alpha = alpha_bar_t / alpha_bar_s
            beta = 1 - alpha
            # Its logarithm is taken, hence the bound away from 0.
            beta_tilde = np.maximum((1 - alpha_bar_s) / (1 - alpha_bar_t) * beta, 1e-20)
            fixed_variance = beta if variance_type.startswith("fixed_large") else beta_tilde
            steps = _Step(
                sqrt_alpha_bar=np.sqrt(alpha_bar_t),
                sqrt_one_minus_alpha_bar=np.sqrt(1 - alpha_bar_t),
                x_0_weight=np.sqrt(alpha_bar_s) * beta / (1 - alpha_bar_t),
                x_t_weight=np.sqrt(alpha) * (1 - alpha_bar_s) / (1 - alpha_bar_t),
                beta_variance=beta,
                beta_tilde_variance=beta_tilde,
                noise_std=np.where(s >= 0, np.sqrt(fixed_variance), 0.0),
                successor=s,
            )
        rows = zip(*(column.tolist() for column in steps), strict=True)
        self._steps = {i: _Step(*row) for i, row in zip(t.tolist(), rows, strict=True)}
        # The same for timesteps that live on a device. NaN marks those that were not chosen: a lookup there
        # cannot raise without waiting for the device.
        table = np.full((len(steps), self.config.num_train_timesteps), np.nan)
        table[:, t] = np.stack(steps)
        self._step_tables = {torch.device("cpu"): torch.from_numpy(table)}
        self._tables_for = (self.timesteps, variance_type)

    def _step_at(self, timestep: Any, ndim: int) -> _Step:
        """Look up the coefficients of the step that starts at `timestep`, shaped to multiply `ndim`-d samples."""
        self._refresh_tables()
        is_tensor = isinstance(timestep, torch.Tensor)
        # Reading a timestep as a number would wait for its device, or break a compiled graph.
        if not is_tensor or (timestep.device.type == "cpu" and not torch.compiler.is_compiling()):
            numbers = timestep.flatten().tolist() if is_tensor else [timestep]
            unknown = [number for number in numbers if number not in self._steps]
            if unknown:
                chosen = self.timesteps.tolist()
                raise ValueError(
                    f"timestep {unknown[0]} is not one of the {len(chosen)} that sampling visits ({chosen[0]} ... "
                    f"{chosen[-1]}); choose them with set_timesteps."
                )
            if not is_tensor or timestep.ndim == 0:
                return self._steps[numbers[0]]
        if timestep.device not in self._step_tables:
            self._step_tables[timestep.device] = _to_device(self._step_tables[torch.device("cpu")], timestep.device)
        # Indexing with brackets would read a 0-d timestep as a number.
        columns = self._step_tables[timestep.device].index_select(1, timestep.long().flatten())
        return _Step(*columns.reshape(len(columns), *timestep.shape, *[1] * (ndim - 1 if timestep.ndim else 0)))

    def previous_timestep(self, timestep: int | torch.Tensor) -> torch.Tensor:
        """Return the timestep that follows `timestep` in the sampling chain, -1 after the last one.

        Args:
            timestep: One of `self.timesteps`: an int, or an integer tensor of shape () or (batch,).

        Returns:
            An int64 tensor of the shape and on the device of `timestep`.

        Raises:
            ValueError: If a timestep on the CPU is not one of `self.timesteps`.
        """
        successor = self._step_at(timestep, ndim=1).successor
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
        step = self._step_at(t, ndim=1)
        variance_type = variance_type or self.config.variance_type
        if variance_type == "learned":
            return predicted_variance
        if variance_type == "learned_range":
            return _interpolated_log_variance(step, predicted_variance)
        value = step.beta_variance if variance_type.startswith("fixed_large") else step.beta_tilde_variance
        if variance_type == "fixed_small_log":
            value = value**0.5
        return torch.as_tensor(value, dtype=torch.float32)

    def _threshold_sample(self, sample: torch.Tensor) -> torch.Tensor:
        """Clip each image to its own quantile range [-q, q] and divide by q >= 1 (arXiv:2205.11487, section 2.3)."""
        magnitudes = sample.float().abs().flatten(1)
        q = torch.quantile(magnitudes, self.config.dynamic_thresholding_ratio, dim=1)
        q = q.clamp(1, self.config.sample_max_value).view(-1, *[1] * (sample.ndim - 1)).to(sample.dtype)
        return sample.clamp(-q, q) / q

    def _predict_x_0(self, step: _Step, model_output: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
        prediction_type = self.config.prediction_type
        if prediction_type == "epsilon":  # eq. 15
            x_0_hat = (x_t - step.sqrt_one_minus_alpha_bar * model_output) / step.sqrt_alpha_bar
        elif prediction_type == "sample":
            x_0_hat = model_output
        elif prediction_type == "v_prediction":
            x_0_hat = step.sqrt_alpha_bar * x_t - step.sqrt_one_minus_alpha_bar * model_output
        else:
            raise ValueError(f"prediction_type is {prediction_type!r}; choose one of {get_args(PredictionType)}.")
        if self.config.thresholding:
            return self._threshold_sample(x_0_hat)
        if self.config.clip_sample:
            return x_0_hat.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        return x_0_hat

    def _noise_std(self, step: _Step, predicted_variance: torch.Tensor | None) -> Any:
        if predicted_variance is None:
            return step.noise_std
        if self.config.variance_type == "learned":
            std = predicted_variance**0.5
        else:
            std = torch.exp(0.5 * _interpolated_log_variance(step, predicted_variance))
        # -1 marks the last step.
        return std * (step.successor >= 0)

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
        step = self._step_at(timestep, sample.ndim)

        dtype = torch.promote_types(sample.dtype, model_output.dtype)
        mixing_dtype = torch.promote_types(dtype, torch.float32)
        if torch.is_tensor(step.noise_std):
            step = _Step(*(column.to(mixing_dtype) for column in step))
        x_t = sample.to(mixing_dtype)
        x_0_hat = self._predict_x_0(step, model_output.to(mixing_dtype), x_t)
        x_s = step.x_0_weight * x_0_hat + step.x_t_weight * x_t
        # Noise is drawn wherever stock draws it, so that equal seeds give equal images.
        if torch.is_tensor(step.noise_std) or int(timestep) > 0:
            noise = randn_tensor(model_output.shape, generator, model_output.device, model_output.dtype)
            if predicted_variance is not None:
                predicted_variance = predicted_variance.to(mixing_dtype)
            x_s = x_s + self._noise_std(step, predicted_variance) * noise.to(mixing_dtype)

        x_s, x_0_hat = x_s.to(dtype), x_0_hat.to(dtype)
        if not return_dict:
            return x_s, x_0_hat
        return DDPMSchedulerOutput(prev_sample=x_s, pred_original_sample=x_0_hat)

    def _marginal_at(self, timesteps: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t) in float32 or wider, shaped to multiply `like`."""
        if like.device not in self._marginal_tables:
            table = torch.from_numpy(np.sqrt(np.stack([self._alpha_bar, 1 - self._alpha_bar])))
            self._marginal_tables[like.device] = _to_device(table, like.device)
        t = timesteps.to(like.device).long().flatten()
        columns = self._marginal_tables[like.device][:, t].to(torch.promote_types(like.dtype, torch.float32))
        a, b = columns.view(2, -1, *[1] * (like.ndim - 1))
        return a, b

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Draw x_t from q(x_t | x_0): sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps (eq. 4).

        Args:
            original_samples: x_0, shape (batch, ...), floating point.
            noise: eps, the same shape.
            timesteps: t, integers in [0, T - 1], shape (batch,), or () for all alike.

        Returns:
            x_t in the dtype of `original_samples`.
        """
        a, b = self._marginal_at(timesteps, original_samples)
        return (a * original_samples + b * noise).to(original_samples.dtype)

    def get_velocity(self, sample: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Compute v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0 (Salimans & Ho 2022, appendix D).

        Args:
            sample: x_0, shape (batch, ...), floating point.
            noise: eps, the same shape.
            timesteps: t, integers in [0, T - 1], shape (batch,), or () for all alike.

        Returns:
            v in the dtype of `sample`.
        """
        a, b = self._marginal_at(timesteps, sample)
        return (a * noise - b * sample).to(sample.dtype)


def _to_device(table: torch.Tensor, device: torch.device) -> torch.Tensor:
    # Apple's devices have no float64.
    return table.to(device, torch.float32 if device.type == "mps" else table.dtype)


def _interpolated_log_variance(step: _Step, predicted_variance: Any) -> Any:
    """Return log sigma^2 = f log beta + (1 - f) log beta_tilde, f = (v + 1) / 2 (arXiv:2102.09672, eq. 15)."""
    log_beta, log_beta_tilde = (
        torch.log(x) if torch.is_tensor(x) else math.log(x) for x in (step.beta_variance, step.beta_tilde_variance)
    )
    f = (predicted_variance + 1) / 2
    return f * log_beta + (1 - f) * log_beta_tilde
