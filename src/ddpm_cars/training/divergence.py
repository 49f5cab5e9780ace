"""A watch over losses and gradients that does not make the device wait at every step."""

import torch
from accelerate import Accelerator


class FiniteWatch:
    """Remembers loss and gradient norm of every step and looks at them when asked.

    Args:
        accelerator: Whose processes are looked at together.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self._unseen: list[tuple[int, torch.Tensor]] = []

    def remember(self, step: int, loss_and_norm: torch.Tensor) -> None:
        """Keep what a step gave, a tensor (2,) on the device, for the next look."""
        self._unseen.append((step, loss_and_norm))

    def first_bad(self) -> tuple[int, float, float] | None:
        """Return step, loss and gradient norm of the first step since the last look that was not finite.

        Every process has to ask.
        """
        if not self._unseen:
            return None
        steps = [step for step, _ in self._unseen]
        seen = self.accelerator.gather(torch.stack([pair for _, pair in self._unseen])[None]).cpu()
        self._unseen = []
        bad = self._is_bad(seen).any(0)
        if not bool(bad.any()):
            return None
        first = int(bad.nonzero()[0])
        loss, norm = seen[:, first].mean(0).tolist()
        return steps[first], loss, norm

    def is_bad(self, loss_and_norm: torch.Tensor) -> tuple[float, float] | None:
        """Wait for one step and return its loss and gradient norm if they are not finite on any process."""
        everywhere = self.accelerator.gather(loss_and_norm[None]).cpu()
        if not bool(self._is_bad(everywhere).any()):
            return None
        loss, norm = everywhere.mean(0).tolist()
        return loss, norm

    def _is_bad(self, loss_and_norm: torch.Tensor) -> torch.Tensor:
        # With fp16, gradients that overflow are part of finding the scale: the scaler leaves those steps out.
        judged = loss_and_norm[..., :1] if self.accelerator.scaler is not None else loss_and_norm
        return ~torch.isfinite(judged).all(-1)
