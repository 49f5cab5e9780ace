"""Steps that are not finite on one of several processes."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ddpm_cars.training.divergence import FiniteWatch

CHECKPOINTS = Path("checkpoints")


class TwoProcesses:
    """The other of them has the losses and gradient norms that are given."""

    def __init__(self, other: list, scaler: Any = None):
        self.other, self.scaler = torch.tensor([other]), scaler

    def gather(self, mine: torch.Tensor) -> torch.Tensor:
        return torch.cat([mine, self.other])


@pytest.mark.parametrize("scaler", [None, "fp16"])
def test_a_loss_of_one_process_counts_and_a_norm_where_nothing_is_scaled(scaler: str | None):
    other = [[1.0, 4.0], [1.0, math.inf], [math.inf, 4.0], [1.0, 4.0]]
    watch = FiniteWatch(TwoProcesses(other, scaler), CHECKPOINTS)
    for step in range(5, 9):
        watch.remember(step, torch.tensor([1.0, 2.0]))
    assert watch.first_bad() == ((6, 1.0, math.inf) if scaler is None else (7, math.inf, 3.0))
    # Seen once, they are forgotten.
    assert watch.first_bad() is None
    found = []
    for one in other:
        alone = FiniteWatch(TwoProcesses([one], scaler), CHECKPOINTS)
        alone.remember(5, torch.tensor([1.0, 2.0]))
        found.append(alone.first_bad())
    assert found == [None, None if scaler else (5, 1.0, math.inf), (5, math.inf, 3.0), None]
