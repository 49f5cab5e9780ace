"""A whole training step in one captured graph: gradients, clipping, optimiser, averages and records."""

from collections.abc import Callable, Sequence

import torch

from ddpm_cars.errors import RunError
from ddpm_cars.pipeline_ddpm_cars import CapturedFunction
from ddpm_cars.training.averages import _follower
from ddpm_cars.training.batches import Batch
from ddpm_cars.training.state import TrainState


class CapturedStep:
    """Takes optimiser steps on one GPU that need no more of the host than batches, a learning rate and decays.

    Args:
        work: Adds the gradients of some batches, takes the optimiser's step and clears them; returns a tensor. It must
            not wait for the device.
        state: Of the run. The learning rates of its optimiser are tensors on the device.
        capture: Makes the function that replays another.
    """

    def __init__(
        self,
        work: Callable[[list[Batch]], torch.Tensor],
        state: TrainState,
        capture: Callable[[Callable[..., torch.Tensor]], Callable[..., torch.Tensor]] = CapturedFunction,
    ):
        self.work = work
        self.optimizer = state.optimizer
        self.averages = list(state.averages.values())
        # 1 - decay of each, which changes from step to step.
        self._weights = [torch.zeros((), device=state.sums.device) for _ in self.averages]
        self._followers = [
            _follower(average.shadow_params, state.unet.parameters(), weight)
            for average, weight in zip(self.averages, self._weights, strict=True)
        ]
        self._num_batches = 0
        self._captured = capture(self._run)

    def __call__(self, batches: Sequence[Batch], learning_rate: float) -> torch.Tensor:
        """Take a step and return what `work` returns, which nobody has waited for.

        Raises:
            RunError: If the GPU cannot take it.
        """
        for group in self.optimizer.param_groups:
            group["lr"].fill_(learning_rate)
        for average, weight in zip(self.averages, self._weights, strict=True):
            average.optimization_step += 1
            average.cur_decay_value = average.get_decay(average.optimization_step)
            weight.fill_(1 - average.cur_decay_value)
        self._num_batches = len(batches)
        try:
            return self._captured(*(tensor for batch in batches for tensor in batch if tensor is not None))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise RunError(
                f"a compiled step cannot be taken here ({type(error).__name__}: {reason}); the same command without "
                "--compile goes on from the last checkpoint"
            ) from error

    def _run(self, *tensors: torch.Tensor) -> torch.Tensor:
        n = len(tensors) // self._num_batches
        parts = [tensors[i : i + n] for i in range(0, len(tensors), n)]
        batches = [Batch(part[0], part[1], part[2], part[3] if n == 4 else None) for part in parts]
        for group in self.optimizer.param_groups:
            # The optimiser insists on knowing, and otherwise warns of it.
            group["capturable"] = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
        result = self.work(batches)
        for follower in self._followers:
            follower.step()
        return result
