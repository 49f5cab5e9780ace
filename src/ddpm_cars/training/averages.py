"""TODO src/ddpm_cars/training/averages.py."""

import math
from collections.abc import Iterable

import torch
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel
from torch.distributed.tensor import DTensor

from ddpm_cars.config.training import TrainingConfig


def _follower(
    averages: Iterable[torch.Tensor], weights: Iterable[torch.Tensor], rate: torch.Tensor
) -> torch.optim.Optimizer:
    """Return what takes a step average += rate (weight - average), in one pass over memory where others take three.

    It is gradient ascent along the weight, with a decay of one.
    """
    averages = list(averages)
    for average, weight in zip(averages, weights, strict=True):
        average.grad = weight.detach()
    return torch.optim.SGD(averages, lr=rate, weight_decay=1.0, maximize=True, fused=True)


RAW = "raw"
"""Name of the weights themselves among their averages."""


def make_averages(config: TrainingConfig, unet: UNet2DModel) -> dict[str, EMAModel]:
    """Start a moving average of the weights for every half-life h, with decay 2^(-1/h) after its warmup."""
    if not config.use_ema:
        return {}
    # Tensors that are spread over processes have no copy for lists of them.
    foreach = not any(isinstance(p, DTensor) for p in unet.parameters())
    return {
        str(half_life): EMAModel(
            unet.parameters(),
            decay=0.5 ** (1 / half_life),
            use_ema_warmup=True,
            inv_gamma=config.ema_inv_gamma,
            power=config.ema_power,
            foreach=foreach,
        )
        for half_life in config.ema_half_life_steps
    }


def half_life_steps(average: EMAModel) -> int:
    """Return after how many steps a weight counts half in an average as it stands, which its warmup makes fewer."""
    decay = average.get_decay(average.optimization_step)
    return round(-math.log(2) / math.log(decay)) if decay > 0 else 0
