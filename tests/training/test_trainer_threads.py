"""How many threads a run computes with, and what of it a checkpoint holds."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddpm_cars.config import TrainingConfig
from ddpm_cars.runs.checkpoints import load_checkpoint
from ddpm_cars.runtime.threads import num_cores
from ddpm_cars.training import train
from tests.support.trainer_helpers import forget_accelerate


@pytest.fixture
def with_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return a function that trains where torch has a number of threads, which somebody may have set."""
    before = torch.get_num_threads()

    def run(config: TrainingConfig, number: int, set_by_user: bool) -> None:
        forget_accelerate()
        monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if set_by_user:
            monkeypatch.setenv("OMP_NUM_THREADS", str(number))
        torch.set_num_threads(number)
        train(config)
        assert torch.get_num_threads() == number

    yield run
    torch.set_num_threads(before)


def parts_of(config: TrainingConfig) -> list[tuple[int, int]]:
    facts = json.loads((Path(config.output_dir) / "training.json").read_text())
    return [(part["num_threads"], part["steps"]) for part in facts["hardware"]]


@pytest.mark.skipif(num_cores() < 2, reason="one core has one thread")
def test_a_run_goes_on_with_the_threads_that_it_began_with(
    make_config: Callable[..., TrainingConfig],
    with_threads: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
):
    """Sums are rounded by threads, so that a run would not be the same to the bit after a break."""
    config = make_config(max_train_steps=1, checkpointing_steps=1)
    with_threads(config, 1, set_by_user=True)
    longer = replace(config, max_train_steps=2)
    with_threads(longer, 2, set_by_user=False)
    assert "going on with 1 thread, as the run began; OMP_NUM_THREADS=2 uses more" in capsys.readouterr().err
    assert parts_of(longer) == [(1, 2)]
    whole = replace(longer, output_dir=str(tmp_path / "whole"))
    with_threads(whole, 1, set_by_user=True)
    weights, other = (
        load_checkpoint(Path(c.output_dir) / "checkpoints" / "step-00000002")[0]["unet"] for c in (longer, whole)
    )
    assert all(torch.equal(weights[name], other[name]) for name in weights)


def test_a_run_says_that_it_goes_on_with_fewer_threads(
    make_config: Callable[..., TrainingConfig], with_threads: Callable[..., None], capsys: pytest.CaptureFixture
):
    config = make_config(max_train_steps=1, checkpointing_steps=1)
    with_threads(config, 2, set_by_user=True)
    longer = replace(config, max_train_steps=2)
    with_threads(longer, 1, set_by_user=False)
    assert "the run began with 2 threads and goes on with 1, so its weights will differ" in capsys.readouterr().err
    assert parts_of(longer) == [(2, 1), (1, 1)]
    with_threads(replace(longer, max_train_steps=3), 1, set_by_user=True)
    assert "threads" not in capsys.readouterr().err
