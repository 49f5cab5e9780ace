"""What a network is trained to make small.

Everything is computed in float32 from tables made in float64, and nothing waits for the device.
"""

import math

import torch

from ddpm_cars.diffusion.denoiser import split_output, training_target
from ddpm_cars.diffusion.gaussian import discretized_gaussian_nll_nats, gaussian_kl_nats, mean_per_image
from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler, interpolated_log_variance


def min_snr_weights(scheduler: DDPMCarsScheduler, t: torch.Tensor, snr_gamma: float) -> torch.Tensor:
    """Return w_t such that w_t |target - prediction|^2 = min(SNR, gamma) |x_0 - x_0_hat|^2 (Hang et al. 2023).

    With SNR = alpha_bar_t / (1 - alpha_bar_t), that is min(SNR, gamma) / SNR for eps, min(SNR, gamma) for x_0 and
    min(SNR, gamma) / (SNR + 1) for v (arXiv:2303.09556, section 3.4). The weights are float32 (batch,).
    """
    a, b = scheduler.signal_and_noise_scales(t, t.float())
    alpha_bar, one_minus_alpha_bar = a.square(), b.square()
    # Written so that nothing becomes 0 / 0 where alpha_bar is 0.
    if scheduler.config.prediction_type == "epsilon":
        return (snr_gamma * one_minus_alpha_bar / alpha_bar).clamp(max=1)
    if scheduler.config.prediction_type == "sample":
        return (alpha_bar / one_minus_alpha_bar).clamp(max=snr_gamma)
    return torch.minimum(alpha_bar, snr_gamma * one_minus_alpha_bar)


def vlb_bpd(
    scheduler: DDPMCarsScheduler, model_output: torch.Tensor, x_0: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    """Compute the term L_t of the variational bound at one timestep per image, to learn the variance from.

    L_t = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), and -log p(x_0 | x_t) at t = 0 (Nichol & Dhariwal 2021,
    arXiv:2102.09672, eq. 5 and 6, whose t starts at 1), per dimension. The variance of p is that of their
    eq. 15, as `DDPMCarsScheduler` samples with it in a chain of all T timesteps. x_0_hat is not clipped, and only the
    second half of the channels of `model_output` gets a gradient. The result is float32 (batch,). Raises ValueError if
    `model_output` does not have twice the channels of `x_0`.
    """
    if model_output.shape[1] != 2 * x_0.shape[1]:
        raise ValueError(
            f"The model output has {model_output.shape[1]} channels; to learn the variance of images with "
            f"{x_0.shape[1]} it must have {2 * x_0.shape[1]}."
        )
    x_0, (prediction, v) = x_0.float(), split_output(model_output.float(), x_0.shape[1])
    x_0_hat = scheduler.predict_original_sample(prediction.detach(), t, x_t.float(), clip=False)
    x_0_weight, log_beta, log_beta_tilde = scheduler.posterior_at(t, x_0)
    log_variance = interpolated_log_variance(v, log_beta, log_beta_tilde)
    # Both means have the same part of x_t, which the difference of float32 values would not cancel completely.
    kl = gaussian_kl_nats(x_0_weight * x_0, log_beta_tilde, x_0_weight * x_0_hat, log_variance)
    is_last = (t.to(x_0.device) == 0).view(-1, *[1] * (x_0.ndim - 1))
    # At t = 0 the mean is x_0_hat. Elsewhere this is not used, and x_0 for x_0_hat keeps its gradient finite.
    nll = discretized_gaussian_nll_nats(x_0, torch.where(is_last, x_0_hat, x_0), log_variance)
    return mean_per_image(torch.where(is_last, nll, kl)) / math.log(2)


def diffusion_losses(
    scheduler: DDPMCarsScheduler,
    model_output: torch.Tensor,
    x_0: torch.Tensor,
    x_t: torch.Tensor,
    eps: torch.Tensor,
    t: torch.Tensor,
    snr_gamma: float | None = None,
    vlb_weight: float = 0.001,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute w_t |target - prediction|^2 per image and dimension, with "learned_range" plus vlb_weight T L_t.

    That is L_simple (Ho et al. 2020, eq. 14), with the weights of Hang et al. 2023 where `snr_gamma` is given, and
    L_hybrid = L_simple + lambda L_vlb (Nichol & Dhariwal 2021, eq. 16): L_vlb is a sum over t, T times the mean.

    Args:
        scheduler: The one that noises; its config says what the network predicts, and whether a variance too.
        model_output: Shape (batch, channels, ...), or twice the channels with a learned variance, floating point.
        x_0: Clean images, shape (batch, channels, ...), on the grid of 256 values in [-1, 1].
        x_t: Noised images, the same shape.
        eps: The noise in them, the same shape.
        t: Timesteps, integers in [0, T - 1], shape (batch,).
        snr_gamma: As in `min_snr_weights`; None weights all timesteps alike.
        vlb_weight: lambda, above 0; used with "learned_range" only.

    Returns:
        The loss, whose mean is to be minimised, and without gradient the plain mean squared error of the prediction
        per dimension, both float32 of shape (batch,).

    Raises:
        ValueError: If the channels of `model_output` do not fit.
    """
    prediction = split_output(model_output, x_0.shape[1])[0].float()
    target = training_target(scheduler, x_0.float(), eps.float(), t)
    mse = mean_per_image((prediction - target).square())
    loss = mse if snr_gamma is None else min_snr_weights(scheduler, t.to(mse.device), snr_gamma) * mse
    if scheduler.config.variance_type == "learned_range":
        T = scheduler.config.num_train_timesteps
        loss = loss + vlb_weight * T * vlb_bpd(scheduler, model_output, x_0, x_t, t)
    return loss, mse.detach()
