"""Gaussian densities: the divergence of two, and the mass of one in the bins of 8-bit pixels.

The posterior q(x_s | x_t, x_0) is in `scheduling_ddpm_cars`, which samples from it.
"""

import torch

# Of pixel values 0, 1, ... 255 mapped to [-1, 1].
_HALF_BIN = 1 / 255
# Further out, log_ndtr in float64 loses the digits that its derivative is made of.
_MAX_DEVIATIONS = 1e6


def gaussian_kl_nats(
    mean_1: torch.Tensor, log_variance_1: torch.Tensor, mean_2: torch.Tensor, log_variance_2: torch.Tensor
) -> torch.Tensor:
    """Compute KL(N(mean_1, variance_1) || N(mean_2, variance_2)) of every element (for Ho et al. 2020, eq. 5).

    KL = (log variance_2 - log variance_1 + variance_1 / variance_2 - 1 + (mean_1 - mean_2)^2 / variance_2) / 2, with
    natural logarithms and shapes that broadcast.
    """
    log_ratio = log_variance_1 - log_variance_2
    return 0.5 * (torch.expm1(log_ratio) - log_ratio + (mean_1 - mean_2).square() * torch.exp(-log_variance_2))


def discretized_gaussian_nll_nats(x_0: torch.Tensor, mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Compute -log p of 8-bit pixels, p the mass that N(mean, variance) has in their bins (Ho et al. 2020, eq. 13).

    The bin of x_0 is [x_0 - 1/255, x_0 + 1/255]; that of -1 is open below and that of 1 above, so the 256 masses add
    up to one. They are computed in float64 and returned in the widest dtype of the three, whose shapes broadcast. x_0
    holds k / 127.5 - 1 with k = 0, 1, ... 255 in float32 or wider: 16 bits cannot tell all of them. The result is
    finite: beyond a million standard deviations from a bin it no longer grows.
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


def mean_per_image(x: torch.Tensor) -> torch.Tensor:
    """Return the mean over all but the first dimension."""
    # Flattening would copy what is stored channels-last.
    return x.mean(dim=tuple(range(1, x.ndim)))
