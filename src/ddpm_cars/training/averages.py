"""Moving averages of a network's weights: when they follow how fast, and how a step moves them."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import UNet2DModel
from torch.distributed.tensor import DTensor

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.runs.checkpoints import RAW


def half_lives(config: TrainingConfig) -> tuple[int, ...]:
    """Return the half-lives in steps, one for each average."""
    return config.ema_half_life_steps if config.use_ema else ()


def decay_at(config: TrainingConfig, half_life_steps: int, num_updates: int) -> float:
    """Return d_k in [0, 1), what an average with a half-life of h steps keeps of itself at the k-th update, k >= 1.

    d_k = min(2^(-1/h), 1 - (1 + (k - 1) / ema_inv_gamma)^(-ema_power)), as `diffusers.training_utils.EMAModel` has it.
    """
    warmup = 1 - (1 + max(0, num_updates - 1) / config.ema_inv_gamma) ** -config.ema_power
    return min(warmup, 0.5 ** (1 / half_life_steps))


class Averages:
    """The moving averages of a run, one for each half-life: average <- average + (1 - d_k) (weight - average).

    They start from the weights. Where `captured`, a graph replays `step`, which reads 1 - d_k from the device.
    """

    def __init__(self, config: TrainingConfig, unet: UNet2DModel, captured: bool = False):
        self.config = config
        self.parameters = list(unet.parameters())
        # By half-life in steps, in the order of the network's parameters.
        self.tensors = {str(h): [p.detach().clone() for p in self.parameters] for h in half_lives(config)}
        self._rates: dict[str, float] = {}
        self._rates_on_device = {name: torch.zeros((), device=unet.device) for name in self.tensors if captured}
        self._followers = {name: self._follower(name, rate) for name, rate in self._rates_on_device.items()}

    def _follower(self, name: str, rate: torch.Tensor) -> torch.optim.Optimizer:
        """Return an optimiser that moves an average in one pass over memory, where plain arithmetic takes three.

        With the weight in place of a gradient, a step of gradient ascent with a decay of one is that of an average.
        """
        for average, weight in zip(self.tensors[name], self.parameters, strict=True):
            average.grad = weight.detach()
        return torch.optim.SGD(self.tensors[name], lr=rate, weight_decay=1.0, maximize=True, fused=True)

    def set_rates(self, num_updates: int) -> None:
        """Decide how far `step` moves the averages at this update of the weights, counted from 1."""
        for name in self.tensors:
            self._rates[name] = 1 - decay_at(self.config, int(name), num_updates)
        for name, rate in self._rates_on_device.items():
            rate.fill_(self._rates[name])

    @torch.no_grad()
    def step(self) -> None:
        """Move every average towards the weights."""
        for name, averages in self.tensors.items():
            if self._followers:
                self._followers[name].step()
            elif any(isinstance(weight, DTensor) for weight in self.parameters):
                # torch has no copy of lists of tensors that are spread over processes.
                for average, weight in zip(averages, self.parameters, strict=True):
                    average.sub_(self._rates[name] * (average - weight))
            else:
                differences = torch._foreach_sub(averages, self.parameters)
                torch._foreach_sub_(averages, differences, alpha=self._rates[name])

    @contextmanager
    def in_place_of_weights(self, name: str) -> Iterator[None]:
        """Exchange the network's weights and an average within a `with` block."""
        self._exchange(name)
        try:
            yield
        finally:
            self._exchange(name)

    @torch.no_grad()
    def _exchange(self, name: str) -> None:
        # One tensor at a time: a GPU need not have room for the weights once more.
        for average, weight in zip(self.tensors[name], self.parameters, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    def half_life_steps(self, name: str, num_updates: int) -> int | None:
        """Return after how many steps a weight counts half, at first fewer than at last; None for `RAW`."""
        if name == RAW:
            return None
        decay = decay_at(self.config, int(name), num_updates)
        return round(-math.log(2) / math.log(decay)) if decay > 0 else 0
