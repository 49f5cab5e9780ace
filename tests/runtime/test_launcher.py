"""What launchers say in the environment, and who of several processes speaks."""

import subprocess
import sys
import time

import pytest

from ddpm_cars.runtime import launcher

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
OPEN_MPI = {f"OMPI_COMM_WORLD_{name}": n for name, n in zip(("RANK", "SIZE", "LOCAL_RANK"), "121", strict=True)}
OPEN_MPI["OMPI_COMM_WORLD_LOCAL_SIZE"] = "2"
# What `accelerate launch --num_processes 2` sets for the one process that it starts on CPUs.
ALONE = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 0, 1, True, False)),
        (TORCHRUN, (5, 1, 8, False, False)),
        (OPEN_MPI, (1, 1, 2, True, False)),
        (ALONE, (0, 0, 1, True, True)),
        (ALONE | TORCHRUN, (5, 1, 8, False, False)),
        ({"MASTER_ADDR": "a-cluster"}, (0, 0, 1, True, False)),
    ],
)
def test_a_process_knows_its_place(monkeypatch: pytest.MonkeyPatch, environment: dict, expected: tuple):
    for name in (*TORCHRUN, *OPEN_MPI, *ALONE):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    place = (launcher.rank(), launcher.local_rank(), launcher.num_launched(), launcher.is_on_one_machine())
    assert (*place, launcher.lacks_processes()) == expected
    launcher.leave()
    assert (launcher.rank(), launcher.local_rank(), launcher.num_launched()) == (0, 0, 1)


def test_a_process_that_finds_a_mistake_first_lets_the_first_one_speak():
    code = "from ddpm_cars.cli.endings import end; print('ready', flush=True); end('train', 2, 'error: nowhere')"
    second = subprocess.Popen(
        [sys.executable, "-c", code],
        env={"RANK": "1", "PYTHONPATH": ":".join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert second.stdout is not None
    assert second.stdout.readline() == "ready\n"
    time.sleep(1)
    assert second.poll() is None
    # The launcher stops it because the first process has failed.
    second.terminate()
    assert second.communicate()[1] == ""
    assert second.returncode == 2
