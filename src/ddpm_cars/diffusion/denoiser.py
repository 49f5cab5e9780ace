"""TODO src/ddpm_cars/diffusion/denoiser.py."""

import copy
from collections.abc import Callable
from typing import Any

import torch

from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler


def make_probe(scheduler: DDPMCarsScheduler, **timesteps: Any) -> DDPMCarsScheduler:
    """Return a copy to noise and to predict x_0 with, which visits what `set_timesteps` makes of the arguments."""
    probe = copy.deepcopy(scheduler)
    probe.register_to_config(variance_type="fixed_small")
    probe.set_timesteps(**timesteps)
    return probe


@torch.no_grad()
def x_0_error(
    unet: Callable[..., Any],
    probe: DDPMCarsScheduler,
    x_0: torch.Tensor,
    t: int,
    generator: torch.Generator,
    class_labels: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return x_0 - x_0_hat from fresh noise.

    Args:
        unet: As in `calibrate`.
        probe: A scheduler that is set to every training timestep and samples with a fixed variance.
        x_0: Clean images, shape (batch, C, H, W), float32 on the CPU.
        t: The timestep, in [0, T - 1].
        generator: Where the noise comes from.
        class_labels: int64 (batch,), for a network with classes.

    Returns:
        A float64 tensor of the shape of `x_0`.
    """
    device, dtype = getattr(unet, "device", x_0.device), getattr(unet, "dtype", x_0.dtype)
    eps = torch.randn(x_0.shape, generator=generator)
    x_t = probe.add_noise(x_0, eps, torch.tensor(t))
    more = {} if class_labels is None else {"class_labels": class_labels.to(device)}
    output = unet(x_t.to(device, dtype), torch.full((len(x_0),), t, device=device), **more)
    output = getattr(output, "sample", output)[:, : x_0.shape[1]].to("cpu", torch.float32)
    _, x_0_hat = probe.step(output, t, x_t, generator, return_dict=False)
    return (x_0 - x_0_hat).double()


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
    return probe.predict_original_sample(prediction, t, x_t.double()), place


def training_target(
    scheduler: DDPMCarsScheduler, x_0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    """Return what the network should predict: eps, x_0 or v, as the scheduler's `prediction_type` says.

    v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0 (Salimans & Ho 2022, appendix D).

    Args:
        scheduler: The one that noises.
        x_0: Clean images, shape (batch, ...), floating point.
        eps: The noise in x_t, the same shape.
        t: Timesteps, integers in [0, T - 1], shape (batch,).
    """
    if scheduler.config.prediction_type == "epsilon":
        return eps
    if scheduler.config.prediction_type == "sample":
        return x_0
    return scheduler.get_velocity(x_0, eps, t)


def predicted_noise(
    scheduler: DDPMCarsScheduler, model_output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    """Return what the output of a network says of the noise, eps_hat.

    From x_0_hat, eps_hat = (x_t - sqrt(alpha_bar_t) x_0_hat) / sqrt(1 - alpha_bar_t) (Ho et al. 2020, eq. 4); from v,
    eps_hat = sqrt(alpha_bar_t) v + sqrt(1 - alpha_bar_t) x_t (Salimans & Ho 2022, appendix D).

    Args:
        scheduler: The one that noises; its `prediction_type` says what `model_output` is.
        model_output: Shape (batch, channels, ...), or twice the channels, the second half a variance that is left out;
            floating point.
        x_t: Noised images, shape (batch, channels, ...), floating point.
        t: Timesteps, integers in [0, T - 1], shape (batch,).

    Returns:
        float32 of the shape of `x_t`, finite at any noise level above 0.

    Raises:
        ValueError: If the channels of `model_output` do not fit.
    """
    prediction, x_t = _mean_half(model_output, x_t), x_t.float()
    if scheduler.config.prediction_type == "epsilon":
        return prediction
    a, b = scheduler.signal_and_noise_scales(t, x_t)
    if scheduler.config.prediction_type == "sample":
        return (x_t - a * prediction) / b
    return a * prediction + b * x_t


def predicted_x_0(
    scheduler: DDPMCarsScheduler, model_output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    """Return what the output of a network says of the clean image, x_0_hat, not clipped.

    From eps_hat, x_0_hat = (x_t - sqrt(1 - alpha_bar_t) eps_hat) / sqrt(alpha_bar_t) (Ho et al. 2020, eq. 15); from v,
    x_0_hat = sqrt(alpha_bar_t) x_t - sqrt(1 - alpha_bar_t) v (Salimans & Ho 2022, appendix D).

    Args:
        scheduler: As in `predicted_noise`.
        model_output: As in `predicted_noise`.
        x_t: As in `predicted_noise`.
        t: As in `predicted_noise`.

    Returns:
        float32 of the shape of `x_t`, finite also where alpha_bar_t is 0, unless the network predicts eps.

    Raises:
        ValueError: If the channels of `model_output` do not fit.
    """
    prediction, x_t = _mean_half(model_output, x_t), x_t.float()
    return scheduler.predict_original_sample(prediction, t, x_t, clip=False)


def _mean_half(model_output: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
    num_channels = x_t.shape[1]
    if model_output.shape[1] not in (num_channels, 2 * num_channels):
        raise ValueError(
            f"The model output has {model_output.shape[1]} channels; for x_t with {num_channels} it must have "
            f"{num_channels}, or {2 * num_channels} with a learned variance."
        )
    return model_output[:, :num_channels].float()
