"""The suite `threads`: a process for every setting of OpenMP, beside others that only compute."""

import os
import time

import pytest

from benchmarks import threads as suite
from benchmarks.__main__ import read_arguments


def test_the_threads_suite_compares_torch_with_the_commands(monkeypatch: pytest.MonkeyPatch):
    # Fewer processes, to be quick.
    chosen = {name: suite.ENVIRONMENTS[name] for name in (suite.AS_TORCH, suite.AS_COMMANDS)}
    monkeypatch.setattr(suite, "ENVIRONMENTS", chosen)
    tiny = "--repeats 1 --neighbours 1 --seconds 0.02 --resolution 8 --train_batch_size 1".split()
    ((title, rows),) = suite.run(read_arguments(["threads", *tiny])).items()
    assert title.startswith("steps a second of tiny at 8x8, batches of 1, ")
    (row,) = rows
    assert list(row) == ["busy programs", *suite.ENVIRONMENTS, "times as fast"]
    assert row["busy programs"] == 1
    ratio = row[suite.AS_COMMANDS]["median"] / row[suite.AS_TORCH]["median"]
    assert row["times as fast"]["median"] == pytest.approx(ratio, abs=0.02 + 0.01 * ratio)


def test_processes_have_the_settings_of_their_row_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = dict(os.environ)
    with suite.environment_of({"GOMP_SPINCOUNT": "5"}):
        assert {name: os.environ.get(name) for name in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT")} == {
            "OMP_WAIT_POLICY": None,
            "OMP_NUM_THREADS": None,
            "GOMP_SPINCOUNT": "5",
        }
    assert dict(os.environ) == before


def test_neighbours_compute_until_the_block_ends():
    def children_seconds() -> float:
        times = os.times()
        return times.children_user + times.children_system

    before = children_seconds()
    with suite.neighbours(2):
        time.sleep(0.5)
    # They have been waited for, so their time counts now.
    assert children_seconds() - before > 0.1
