"""The forward process, q(x_t | x_0), and what the output of a model says of it: what training needs of a scheduler.

Equation numbers refer to Ho et al. 2020, https://arxiv.org/abs/2006.11239.
"""

import math
from typing import Any, Literal

import numpy as np
import torch

from ddpm_cars.portable.saved_config import StockConfigMixin
from ddpm_cars.portable.step_tables import NoiseLevels, edit_count, is_edited

PredictionType = Literal["epsilon", "sample", "v_prediction"]


class ForwardProcess(StockConfigMixin):
    """The noise levels of a scheduler, and x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps (eq. 4)."""

    def _use_betas(self, betas: np.ndarray) -> None:
        # Read by pipelines and training scripts, which expect float32; nothing here computes with them.
        self.betas = torch.from_numpy(betas).float()
        self.alphas = torch.from_numpy(1 - betas).float()
        self._levels = NoiseLevels(np.cumprod(1 - betas))
        self._alphas_cumprod = torch.from_numpy(self._levels.alpha_bar).float()
        self._alphas_cumprod_edits = edit_count(self._alphas_cumprod)

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        """alpha_bar_t, float32 (T,); other values in it or for it, as some trainers give, replace the noise levels."""
        return self._alphas_cumprod

    @alphas_cumprod.setter
    def alphas_cumprod(self, alphas_cumprod: torch.Tensor) -> None:
        """Replace the noise levels, if these are others, and forget what was computed with them."""
        values = alphas_cumprod.detach().cpu()
        # A copy on another device, or in fewer digits, is no other schedule.
        if not torch.equal(values, torch.from_numpy(self._levels.alpha_bar).to(values.dtype)):
            self._levels = NoiseLevels(values.double().numpy())
        self._alphas_cumprod, self._alphas_cumprod_edits = alphas_cumprod, edit_count(alphas_cumprod)

    def _noise_levels(self) -> NoiseLevels:
        if is_edited(self._alphas_cumprod, self._alphas_cumprod_edits):
            self.alphas_cumprod = self._alphas_cumprod
        return self._levels

    @property
    def alphas_cumprod_float64(self) -> np.ndarray:
        """alpha_bar_t in full precision, as everything here computes with it: float64 (T,) in [0, 1], read-only."""
        view = self._noise_levels().alpha_bar.view()
        view.flags.writeable = False
        return view

    def signal_and_noise_scales(self, timesteps: torch.Tensor, sample: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), the scales of x_0 and of eps in x_t (eq. 4).

        Args:
            timesteps: t, integers in [0, T - 1], shape (batch,), or () for all alike.
            sample: What they are to multiply, shape (batch, ...), floating point.

        Returns:
            Two tensors of shape (batch, 1, ...) or (1, 1, ...) on the device of `sample`, in its dtype, or in float32
            where that is wider.

        Raises:
            ValueError: If `timesteps` are no integers.
        """
        return self._noise_levels().scales.columns(timesteps, sample)

    def posterior_at(self, timesteps: torch.Tensor, sample: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what the step t -> t - 1 of the chain of all T timesteps is made of (eq. 7), for the bound.

        Args:
            timesteps: As in `signal_and_noise_scales`.
            sample: Likewise.

        Returns:
            The weight of x_0 in the mean of q(x_{t-1} | x_t, x_0), log beta_t and log beta_tilde_t, in nats, each as
            `signal_and_noise_scales` returns its two. At t = 0, where the posterior has no variance, that of t = 1
            stands in (Nichol & Dhariwal 2021).

        Raises:
            ValueError: If `timesteps` are no integers.
        """
        return self._noise_levels().posterior.columns(timesteps, sample)

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Draw x_t from q(x_t | x_0): sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps (eq. 4).

        Args:
            original_samples: x_0, shape (batch, ...), floating point.
            noise: eps, the same shape.
            timesteps: t, integers in [0, T - 1], shape (batch,), or () for all alike.

        Returns:
            x_t in the dtype of `original_samples`.

        Raises:
            ValueError: If `timesteps` are no integers.
        """
        a, b = self.signal_and_noise_scales(timesteps, original_samples)
        return (a * original_samples).addcmul_(b, noise.to(a.dtype)).to(original_samples.dtype)

    def get_velocity(self, sample: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Compute v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0 (Salimans & Ho 2022, appendix D).

        Args:
            sample: x_0, shape (batch, ...), floating point.
            noise: eps, the same shape.
            timesteps: t, integers in [0, T - 1], shape (batch,), or () for all alike.

        Returns:
            v in the dtype of `sample`.

        Raises:
            ValueError: If `timesteps` are no integers.
        """
        a, b = self.signal_and_noise_scales(timesteps, sample)
        return (a * noise).addcmul_(b, sample.to(a.dtype), value=-1).to(sample.dtype)

    def predict_original_sample(
        self, model_output: torch.Tensor, timesteps: int | torch.Tensor, sample: torch.Tensor, clip: bool = True
    ) -> torch.Tensor:
        """Return x_0_hat, what the output of a model says of the clean image.

        From eps_hat, x_0_hat = (x_t - sqrt(1 - alpha_bar_t) eps_hat) / sqrt(alpha_bar_t) (eq. 15); from v,
        x_0_hat = sqrt(alpha_bar_t) x_t - sqrt(1 - alpha_bar_t) v (Salimans & Ho 2022, appendix D).

        Args:
            model_output: What the model predicts from x_t, as `prediction_type` says, the shape of `sample`, without
                a learned variance, floating point.
            timesteps: t, any in [0, T - 1]: a number, or an integer tensor of shape () or (batch,).
            sample: x_t, shape (batch, ...), floating point.
            clip: Whether x_0_hat is clipped or thresholded where the config says so.

        Returns:
            x_0_hat in the wider dtype of the two inputs.

        Raises:
            ValueError: If `timesteps` are no integers.
        """
        dtype = torch.promote_types(sample.dtype, model_output.dtype)
        x_t = sample.to(torch.promote_types(dtype, torch.float32))
        scales: tuple[Any, ...]
        if isinstance(timesteps, torch.Tensor):
            scales = self.signal_and_noise_scales(timesteps, x_t)
        else:
            alpha_bar = float(self.alphas_cumprod_float64[timesteps])
            a = math.sqrt(alpha_bar)
            scales = a, math.sqrt(1 - alpha_bar), 1 / a if a else math.inf
        output = model_output.to(x_t.dtype)
        x_0_hat = predicted_x_0(self.config.prediction_type, output, x_t, *scales)
        return (self._clipped(x_0_hat, output) if clip else x_0_hat).to(dtype)

    def _clipped(self, x_0_hat: torch.Tensor, model_output: torch.Tensor) -> torch.Tensor:
        config = self.config
        if config.thresholding:
            return threshold_sample(x_0_hat, config.dynamic_thresholding_ratio, config.sample_max_value)
        if config.clip_sample:
            # The model's own output is not ours to change.
            clamp = torch.clamp if x_0_hat is model_output else torch.clamp_
            return clamp(x_0_hat, -config.clip_sample_range, config.clip_sample_range)
        return x_0_hat


def predicted_x_0(
    prediction_type: str, model_output: torch.Tensor, x_t: torch.Tensor, a: Any, b: Any, one_over_a: Any = None
) -> torch.Tensor:
    """Return x_0_hat: (x_t - b eps_hat) / a (eq. 15), or a x_t - b v (Salimans & Ho 2022, appendix D).

    a is sqrt(alpha_bar_t) and b is sqrt(1 - alpha_bar_t), numbers or tensors that multiply x_t; 1 / a multiplies where
    it is given. Where x_0 is what the model predicts, its output itself is returned.
    """
    if prediction_type == "epsilon":
        x_0_hat = plus_scaled(x_t, -b, model_output)
        # They round differently, and the bits of losses and of samples depend on it.
        return x_0_hat.div_(a) if one_over_a is None else x_0_hat.mul_(one_over_a)
    if prediction_type == "v_prediction":
        return plus_scaled(a * x_t, -b, model_output)
    return model_output


def threshold_sample(x_0_hat: torch.Tensor, ratio: float, max_value: float) -> torch.Tensor:
    """Clip each image to its own quantile range [-q, q] and divide by q, from 1 to max_value (arXiv:2205.11487)."""
    magnitudes = x_0_hat.to(torch.promote_types(x_0_hat.dtype, torch.float32)).abs().flatten(1)
    q = torch.quantile(magnitudes, ratio, dim=1)
    q = q.clamp(1, max_value).view(-1, *[1] * (x_0_hat.ndim - 1)).to(x_0_hat.dtype)
    return x_0_hat.clamp(-q, q) / q


def plus_scaled(x: torch.Tensor, weight: Any, y: torch.Tensor) -> torch.Tensor:
    """Return x + weight y, in one pass where the weight is a number."""
    return x + weight * y if isinstance(weight, torch.Tensor) else torch.add(x, y, alpha=weight)


def add_scaled_(x: torch.Tensor, weight: Any, y: torch.Tensor) -> torch.Tensor:
    """Return x + weight y in the memory of x."""
    return x.addcmul_(weight, y) if isinstance(weight, torch.Tensor) else x.add_(y, alpha=weight)
