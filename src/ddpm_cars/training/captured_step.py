"""An update of the weights as a captured graph: the GPU repeats it without waiting for Python."""

from collections.abc import Callable, Sequence

import torch

from ddpm_cars.errors import RunError
from ddpm_cars.pipeline_ddpm_cars import CapturedFunction
from ddpm_cars.training.batches import Batch
from ddpm_cars.training.optimizer import announce_capture


class CapturedStep:
    """Updates the weights on one GPU by replaying what `update` did to the device.

    Args:
        update: Updates the weights from batches and returns a tensor. It must not wait for the device, and whatever
            changes from step to step besides the batches it must read from there.
        optimizer: The optimiser that takes its step in `update`.
        capture: Makes the function that replays another.
    """

    def __init__(
        self,
        update: Callable[[Sequence[Batch]], torch.Tensor],
        optimizer: torch.optim.Optimizer,
        capture: Callable[[Callable[..., torch.Tensor]], Callable[..., torch.Tensor]] = CapturedFunction,
    ):
        self.update = update
        self.optimizer = optimizer
        self._num_batches = 0
        self._captured = capture(self._run)

    def __call__(self, batches: Sequence[Batch]) -> torch.Tensor:
        """Update the weights and return what `update` returns, a tensor that nobody has waited for.

        Raises:
            RunError: If the GPU cannot do it.
        """
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
        announce_capture(self.optimizer)
        return self.update([Batch(part[0], part[1], part[2], part[3] if n == 4 else None) for part in parts])
