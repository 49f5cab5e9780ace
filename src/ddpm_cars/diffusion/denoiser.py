"""What a network should predict, and what its output says of the noise and of the clean image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ddpm_cars.pipeline_ddpm_cars import non_finite_output
from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler


def training_target(
    scheduler: DDPMCarsScheduler, x_0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    """Return what the network should predict: eps, x_0 or v, as the scheduler's `prediction_type` says."""
    if scheduler.config.prediction_type == "epsilon":
        return eps
    if scheduler.config.prediction_type == "sample":
        return x_0
    return scheduler.get_velocity(x_0, eps, t)


def split_output(model_output: torch.Tensor, num_channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Split (batch, channels, ...) into what a network predicts and the learned variance, which may have no channels.

    Raises ValueError if these are neither as many channels as the images have nor twice as many.
    """
    if model_output.shape[1] not in (num_channels, 2 * num_channels):
        raise ValueError(
            f"The model output has {model_output.shape[1]} channels; for images with {num_channels} it must have "
            f"{num_channels}, or {2 * num_channels} with a learned variance."
        )
    return model_output[:, :num_channels], model_output[:, num_channels:]


@dataclass(frozen=True)
class Denoiser:
    """A trained network, asked for the noise and the clean image in noised ones, without gradients."""

    # In evaluation mode, or any callable of (x_t, t), shapes (batch, C, H, W) and (batch,), whose result is a tensor
    # or has one as `sample`, of C or 2 C channels. It is given `class_labels` where there are some.
    network: Callable[..., Any]
    scheduler: DDPMCarsScheduler  # its config says what the network predicts, and how x_0_hat is clipped
    dtype: torch.dtype = torch.float32  # what the output is read in, that or float64

    def x_0_hat(
        self, x_t: torch.Tensor, t: int | torch.Tensor, class_labels: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return x_0_hat, clipped where the config says so, and the learned variance, as `split_output` gives it.

        Both are in `dtype` on the device of `x_t`. Raises ValueError if the channels of the output do not fit, and for
        `x_t` on the CPU NonFiniteError if the output is not finite, which clipping would hide.
        """
        prediction, place = self._run(x_t, t, class_labels)
        # Elsewhere, looking would wait for the device.
        if x_t.device.type == "cpu" and not (prediction.isfinite().all() and place.isfinite().all()):
            is_finite = torch.cat([prediction, place], dim=1).flatten(1).isfinite().all(1)
            first = t if isinstance(t, int) else int(t.flatten()[0])
            num_bad = int((~is_finite).sum())
            raise non_finite_output(f"at timestep {first}", num_bad, len(x_t), self._dtype_of_network(x_t))
        return self.scheduler.predict_original_sample(prediction, t, x_t.to(self.dtype)), place

    def eps_hat(self, x_t: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor | None = None) -> torch.Tensor:
        """Return the noise that the network sees in x_t, in `dtype` on its device, finite at any noise level above 0.

        From x_0_hat, eps_hat = (x_t - sqrt(alpha_bar_t) x_0_hat) / sqrt(1 - alpha_bar_t) (Ho et al. 2020, eq. 4); from
        v, eps_hat = sqrt(alpha_bar_t) v + sqrt(1 - alpha_bar_t) x_t (Salimans & Ho 2022, appendix D). Raises
        ValueError if the channels of the output do not fit.
        """
        prediction, _ = self._run(x_t, t, class_labels)
        x_t, prediction_type = x_t.to(self.dtype), self.scheduler.config.prediction_type
        if prediction_type == "epsilon":
            return prediction
        a, b = self.scheduler.signal_and_noise_scales(t, x_t)
        return (x_t - a * prediction) / b if prediction_type == "sample" else a * prediction + b * x_t

    @torch.no_grad()
    def _run(
        self, x_t: torch.Tensor, t: int | torch.Tensor, class_labels: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        device, dtype = getattr(self.network, "device", x_t.device), self._dtype_of_network(x_t)
        t = t.to(device) if isinstance(t, torch.Tensor) else torch.full((len(x_t),), t, device=device)
        more = {} if class_labels is None else {"class_labels": class_labels.to(device)}
        output = self.network(x_t.to(device, dtype), t, **more)
        return split_output(getattr(output, "sample", output).to(x_t.device, self.dtype), x_t.shape[1])

    def _dtype_of_network(self, x_t: torch.Tensor) -> torch.dtype:
        return getattr(self.network, "dtype", x_t.dtype)


def x_0_error(
    unet: Callable[..., Any],
    scheduler: DDPMCarsScheduler,
    x_0: torch.Tensor,
    t: int,
    generator: torch.Generator,
    class_labels: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return x_0 - x_0_hat from fresh noise, float64, for images x_0, float32 (batch, C, H, W) on the CPU."""
    x_t = scheduler.add_noise(x_0, torch.randn(x_0.shape, generator=generator), torch.tensor(t))
    x_0_hat, _ = Denoiser(unet, scheduler).x_0_hat(x_t, t, class_labels)
    if t > 0:
        # Earlier versions drew noise twice. Without this draw a seed would give another calibration.
        torch.randn(x_0.shape, generator=generator)
    return (x_0 - x_0_hat).double()
