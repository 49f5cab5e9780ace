"""Finding a run that diverges, without making the device wait at every step."""

import math
from pathlib import Path

import torch
from accelerate import Accelerator

from ddpm_cars.runs.run_folder import list_checkpoints
from ddpm_cars.runtime.console import warn
from ddpm_cars.training.state import TrainState, full_tensor


def _loss_and_norm(bad: tuple[int, float, float]) -> str:
    return "loss {1:.4g}, gradient norm {2:.4g}".format(*bad)


class FiniteWatch:
    """Remembers loss and gradient norm of every step, and looks at those of all processes together when asked."""

    def __init__(self, accelerator: Accelerator, checkpoints: Path, max_skipped_steps: int = 0):
        self.accelerator = accelerator
        self.checkpoints = checkpoints
        self.max_skipped_steps = max_skipped_steps
        self._unseen: list[tuple[int, torch.Tensor]] = []

    def remember(self, step: int, loss_and_norm: torch.Tensor) -> None:
        """Keep the loss and gradient norm of a step, a tensor (2,) on the device, for the next look."""
        self._unseen.append((step, loss_and_norm))

    def first_bad(self) -> tuple[int, float, float] | None:
        """Return step, loss and norm of the first step since the last look that was not finite, on every process."""
        if not self._unseen:
            return None
        steps = [step for step, _ in self._unseen]
        seen = self.accelerator.gather(torch.stack([pair for _, pair in self._unseen])[None]).cpu()
        self._unseen = []
        # With fp16, gradients that overflow are part of finding the scale: the scaler leaves those steps out.
        judged = seen[..., :1] if self.accelerator.scaler is not None else seen
        bad = (~torch.isfinite(judged)).any(-1).any(0)
        if not bool(bad.any()):
            return None
        first = int(bad.nonzero()[0])
        loss, norm = seen[:, first].mean(0).tolist()
        return steps[first], loss, norm

    def must_skip(self, loss_and_norm: torch.Tensor, state: TrainState) -> bool:
        """Wait for the step that is being taken, and return whether it must be left out, which is then counted.

        Raises FloatingPointError if more steps have to be left out than may be.
        """
        self.remember(state.step + 1, loss_and_norm)
        bad = self.first_bad()
        if bad is None:
            return False
        step, limit, what = bad[0], self.max_skipped_steps, _loss_and_norm(bad)
        state.skipped_steps += 1
        if state.skipped_steps > limit:
            raise self._diverged(what, step)
        warn(f"step {step} is left out: {what} ({state.skipped_steps} of {limit})")
        return True

    def check(self, state: TrainState) -> None:
        """Look at the steps since the last look, and at the weights. Every process has to call this.

        Raises FloatingPointError if something is not finite, with the step and the last checkpoint.
        """
        bad = self.first_bad()
        if bad is not None:
            raise self._diverged(_loss_and_norm(bad), bad[0])
        # The loss of a step is that of the weights before it.
        norm = torch.nn.utils.get_total_norm([p.detach() for p in state.unet.parameters()])
        if not math.isfinite(full_tensor(norm)):
            raise self._diverged("a weight is not finite", state.step)

    def _diverged(self, what: str, step: int) -> FloatingPointError:
        good = list_checkpoints(self.checkpoints)
        return FloatingPointError(
            f"diverged at step {step}: {what}; "
            + (f"the last good checkpoint is {good[-1]}. " if good else "there is no checkpoint yet. ")
            + "Lower learning_rate, use mixed_precision bf16 or no, or allow max_skipped_steps"
        )
