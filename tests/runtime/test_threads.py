"""How many threads compute, and how long they wait for each other."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from ddpm_cars import pretrained
from ddpm_cars.runtime import threads
from ddpm_cars.runtime.threads import (
    BOUNDED_SPINNING,
    ComputingThreads,
    SlownessWatch,
    bound_spinning,
    free_cores,
    num_cores,
)
from tests.support.fresh_process import run_alone

ROOT = Path(__file__).parents[2]
OWN = (*BOUNDED_SPINNING, "OMP_WAIT_POLICY", "KMP_LIBRARY", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be pinned here")


@pytest.fixture(autouse=True)
def nobody_has_set_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OWN:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch, four_threads: None) -> Callable[[float], None]:
    """Return a function that decides how many cores of a machine with four are free; at first all are."""
    monkeypatch.setattr(threads, "num_cores", lambda: 4)

    def decide(cores: float) -> None:
        monkeypatch.setattr(threads, "free_cores", lambda number: min(number, cores))

    decide(4.0)
    return decide


# Whether torch finds the settings is seen at the very moment at which it is looked for.
WATCH_TORCH = """
import os, runpy, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.write(1, f"torch {os.environ.get('GOMP_SPINCOUNT')} {os.environ.get('KMP_BLOCKTIME')}".encode())
            os._exit(0)

sys.meta_path.insert(0, Watch())
sys.path.insert(0, os.path.dirname(sys.argv[1]))
sys.argv = sys.argv[1:]
if sys.argv[0] == "-m":
    sys.argv[0] = "ddpm_cars"
    runpy.run_module("ddpm_cars", run_name="__main__", alter_sys=True)
else:
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
COMMANDS = {
    "train": ["--train_data_dir", "cars", "--output_dir", "out"],
    "sample": ["--pretrained_model_name_or_path", str(pretrained()), "--output_dir", "out"],
    "show": ["--train_data_dir", "cars", "--output_dir", "out"],
    "calibrate": ["--pretrained_model_name_or_path", str(pretrained())],
    "evaluate": ["--pretrained_model_name_or_path", str(pretrained())],
}
STARTS = [[str(ROOT / "scripts" / f"{name}.py"), *rest] for name, rest in COMMANDS.items()]
STARTS.append(["-m", "train", *COMMANDS["train"]])


def seen_by_torch(arguments: list[str], folder: Path, **environment: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", WATCH_TORCH, *arguments],
        env={**os.environ, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return run.stdout or run.stderr


@pytest.mark.parametrize("arguments", STARTS, ids=lambda arguments: " ".join(map(os.path.basename, arguments[:2])))
def test_every_command_bounds_the_spinning_before_torch_is_imported(arguments: list[str], tmp_path: Path):
    (tmp_path / "cars").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "cars" / "car.png")
    assert seen_by_torch(arguments, tmp_path) == "torch 10000 1"


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"])
def test_what_a_person_has_set_is_left_alone(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, "7")
    bound_spinning()
    assert {key: os.environ[key] for key in OWN if key in os.environ} == {name: "7"}


@needs_affinity
def test_cores_that_others_use_are_not_free(tmp_path: Path):
    """Three processes on one core get a third of it each, whatever else the machine does."""
    run_alone(
        """
import os, subprocess, sys, time
from ddpm_cars.runtime.threads import free_cores, num_cores

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
assert num_cores() == 1
busy = [subprocess.Popen([sys.executable, "-c", "print(flush=True)\\nwhile True: pass"], stdout=subprocess.PIPE)
        for _ in range(2)]
try:
    for process in busy:
        process.stdout.readline()
    # More than half of it would be too much in any case.
    share = sorted(free_cores(1) for _ in range(3))[1]
    assert 0.01 < share < 0.6, share
    both = sorted(free_cores(2) for _ in range(3))[1]
    assert 0.01 < both < 0.75, both
finally:
    for process in busy:
        process.kill()
""",
        tmp_path,
    )


def test_two_threads_on_one_core_get_one_core():
    assert 0.0 < free_cores(1, 0.02) <= 1.0
    assert free_cores(2 * num_cores(), 0.02) <= num_cores() + 0.1


def test_the_limit_of_a_container_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    if not Path("/proc/self/cgroup").exists():
        pytest.skip("only Linux has control groups")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.setattr(threads, "CGROUPS", tmp_path)
    assert num_cores() == 64
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert num_cores() == 64
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert num_cores() == (2 if "0::" in Path("/proc/self/cgroup").read_text() else 64)


@pytest.mark.parametrize(
    ("cores", "number"), [(4.0, 4), (3.8, 4), (3.4, 3), (1.3, 1), (0.2, 1)], ids=lambda value: str(value)
)
def test_as_many_threads_compute_as_cores_are_free(
    free: Callable[[float], None], cores: float, number: int, capsys: pytest.CaptureFixture
):
    free(cores)
    with ComputingThreads("cpu") as computing:
        assert torch.get_num_threads() == computing.num_threads == number
        assert computing.max_threads == 4
    assert torch.get_num_threads() == 4
    said = capsys.readouterr().err
    assert ("because other programs use the processor; OMP_NUM_THREADS=4" in said) == (number < 4)


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_a_number_that_a_person_has_set_stays(
    free: Callable[[float], None], monkeypatch: pytest.MonkeyPatch, name: str, capsys: pytest.CaptureFixture
):
    monkeypatch.setenv(name, "4")
    free(1.0)
    with ComputingThreads("cpu") as computing:
        for seconds in (1.0, 1.0, 1.0, *[100.0] * 8):
            computing.after_step(seconds)
        computing.keep(2)
        assert torch.get_num_threads() == computing.num_threads == 4
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(";")[0] for line in lines] == [
        "steps have become 100 times slower: other programs use the processor",
        "the run began with 2 threads and goes on with 4, so its weights will differ by rounding from those of a run "
        "without a break",
    ]


def test_threads_are_no_matter_on_a_gpu(free: Callable[[float], None], capsys: pytest.CaptureFixture):
    free(1.0)
    with ComputingThreads("cuda") as computing:
        computing.keep(2)
        for seconds in (1.0, 1.0, 1.0, 1.0, *[100.0] * 6):
            computing.after_step(seconds)
        assert torch.get_num_threads() == 4
    assert capsys.readouterr().err == ""


def looks_at(
    steps: list[tuple[int, float]], watch: SlownessWatch, is_lowered: bool = False
) -> list[tuple[int, float]]:
    """Return the seconds at which a watch asks for a look, and what it says, for (number, seconds) of steps."""
    now, found = 0.0, []
    for number, seconds in steps:
        for _ in range(number):
            now += seconds
            if (factor := watch.after_step(seconds, is_lowered)) is not None:
                found.append((round(now), round(factor, 1)))
    return found


@pytest.mark.parametrize(
    ("steps", "looks"),
    [
        # Steps of one length, and steps that become twice as long.
        ([(600, 0.1)], []),
        ([(600, 0.1), (600, 0.2)], []),
        # The first steps are slow, and then there is a pause of ten seconds.
        ([(3, 5.0), (600, 0.1), (1, 10.0), (600, 0.1)], []),
        # Slower for good: soon, then once a minute.
        ([(600, 0.1), (100, 0.5), (200, 0.5)], [(66, 5.0), (126, 5.0), (186, 5.0)]),
        # Very slow.
        ([(600, 0.1), (8, 30.0)], [(180, 300.0), (240, 300.0), (300, 300.0)]),
    ],
    ids=["even", "twice", "pause", "slower", "very slow"],
)
def test_the_processor_is_looked_at_where_steps_have_become_several_times_slower(
    steps: list[tuple[int, float]], looks: list[tuple[int, float]]
):
    assert looks_at(steps, SlownessWatch(has_looked=False)) == looks


def test_fewer_threads_look_once_a_minute_whether_cores_have_become_free():
    assert [at for at, _ in looks_at([(2000, 0.1)], SlownessWatch(has_looked=True), is_lowered=True)] == [60, 120, 180]


def test_threads_follow_the_programs_beside_them(free: Callable[[float], None], capsys: pytest.CaptureFixture):
    def steps(minutes: float, seconds: float) -> int:
        for _ in range(int(60 * minutes / seconds)):
            computing.after_step(seconds)
        return torch.get_num_threads()

    with ComputingThreads("cpu") as computing:
        assert steps(1, 0.1) == 4
        free(1.4)
        assert steps(0.5, 0.5) == 1
        # Going up by one would change the bits for little.
        free(3.0)
        assert steps(2, 0.3) == 3
        free(4.0)
        assert steps(4, 0.15) == 4
        free(0.4)
        assert steps(10, 3.0) == 1
        assert steps(10, 3.0) == 1
    assert torch.get_num_threads() == 4
    said = re.sub(r"\d+ times", "N times", capsys.readouterr().err)
    assert said.splitlines() == [
        "steps have become N times slower: other programs use the processor; going on with 1 thread",
        "cores are free again; going on with 3 threads",
        "cores are free again; going on with 4 threads",
        "steps have become N times slower: other programs use the processor; going on with 1 thread",
        "steps have become N times slower: other programs leave it 0.4 of a core; stop them, or wait for their end",
    ]


def test_slow_steps_beside_free_cores_have_another_cause(free: Callable[[float], None], capsys: pytest.CaptureFixture):
    with ComputingThreads("cpu") as computing:
        for seconds in (*[0.1] * 100, *[1.0] * 300):
            computing.after_step(seconds)
        assert computing.num_threads == 4
    assert capsys.readouterr().err.splitlines() == [
        "steps have become 10 times slower, though cores are free: see whether memory is short or the processor is "
        "too hot"
    ]


def test_a_run_keeps_the_number_of_threads_that_it_began_with(
    free: Callable[[float], None], capsys: pytest.CaptureFixture
):
    with ComputingThreads("cpu") as computing:
        computing.keep(4)
        assert capsys.readouterr().err == ""
        computing.keep(2)
        assert torch.get_num_threads() == computing.num_threads == computing.max_threads == 2
        assert "going on with 2 threads, as the run began; OMP_NUM_THREADS=4" in capsys.readouterr().err
        computing.keep(8)
        assert torch.get_num_threads() == 2
        assert "began with 8 threads and goes on with 2" in capsys.readouterr().err
