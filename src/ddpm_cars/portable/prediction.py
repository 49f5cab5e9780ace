"""What the output of a model says of the clean image, and sums of images that are made in few passes.

Equation numbers refer to Ho et al. 2020, https://arxiv.org/abs/2006.11239.
"""

from typing import Any, Literal

import torch

PredictionType = Literal["epsilon", "sample", "v_prediction"]


def predicted_x_0(
    prediction_type: str, model_output: torch.Tensor, x_t: torch.Tensor, a: Any, one_over_a: Any, b: Any
) -> torch.Tensor:
    """Return x_0_hat: (x_t - b eps_hat) / a (eq. 15), or a x_t - b v (Salimans & Ho 2022, appendix D).

    a is sqrt(alpha_bar_t) and b is sqrt(1 - alpha_bar_t), numbers or tensors that multiply x_t. Where x_0 is what the
    model predicts, its output itself is returned.
    """
    if prediction_type == "epsilon":
        return plus_scaled(x_t, -b, model_output).mul_(one_over_a)
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
