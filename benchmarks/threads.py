"""Time training steps on a CPU beside programs that only compute: torch as it is, and as the commands use it."""

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial

import torch

from benchmarks.measure import SEED, Rows, alternate, ratio, spread
from ddpm_cars.networks.unet import PRESETS, create_unet
from ddpm_cars.runtime.hardware import keep_freed_memory
from ddpm_cars.runtime.threads import BOUNDED_SPINNING, ComputingThreads

NUM_REPEATS = 3

AS_TORCH, AS_COMMANDS = "torch as it is", "as the commands do"
ENVIRONMENTS: dict[str, dict[str, str]] = {
    AS_TORCH: {},
    "bounded spinning": BOUNDED_SPINNING,
    AS_COMMANDS: BOUNDED_SPINNING,
    "one thread": {"OMP_NUM_THREADS": "1"},
}
_NOT_INHERITED = (*BOUNDED_SPINNING, "OMP_WAIT_POLICY", "KMP_LIBRARY", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this suite."""
    parser.add_argument("--neighbours", type=int, nargs="+", default=[0, 1, 2, 4], help="programs that only compute")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds of a figure, of two steps or more")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="tiny", help="network")
    parser.add_argument("--resolution", type=int, default=32, help="height and width in pixels")
    parser.add_argument("--train_batch_size", type=int, default=8, help="images of a step")


class Steps:
    """Steps of AdamW on one batch of noise, in float32 on the CPU."""

    def __init__(self, preset: str, resolution: int, batch_size: int):
        keep_freed_memory(torch.device("cpu"))
        torch.manual_seed(SEED)
        self.unet = create_unet(preset, resolution).train()
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), lr=1e-4)
        self.x_t = torch.randn(batch_size, self.unet.config.in_channels, resolution, resolution)
        self.t = torch.randint(1000, (batch_size,))

    def take(self) -> None:
        """Take one step."""
        loss = (self.unet(self.x_t, self.t).sample - self.x_t).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def per_second(self, seconds: float) -> float:
        """Return how many steps are taken in a second, after as many steps to warm up as a third of the time takes."""
        for _ in self._steps_of(seconds / 3, 1):
            pass
        started = time.perf_counter()
        return sum(1 for _ in self._steps_of(seconds, 2)) / (time.perf_counter() - started)

    def _steps_of(self, seconds: float, least: int) -> Iterator[int]:
        started, number = time.perf_counter(), 0
        while number < least or time.perf_counter() - started < seconds:
            self.take()
            number += 1
            yield number


_steps: Steps | None = None


def _begin(*settings: object) -> None:
    global _steps
    _steps = Steps(*settings)  # type: ignore[arg-type]


def _measure(chooses_threads: bool, seconds: float) -> float:
    assert _steps is not None
    # A command looks at the processor once it starts.
    with ComputingThreads("cpu") if chooses_threads else nullcontext():
        return _steps.per_second(seconds)


@contextmanager
def environment_of(settings: dict[str, str]) -> Iterator[None]:
    """Let processes that start in the block have these settings of OpenMP, and no others."""
    before = dict(os.environ)
    for name in _NOT_INHERITED:
        os.environ.pop(name, None)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def neighbours(number: int) -> Iterator[None]:
    """Compute something useless in other processes for as long as the block runs."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def run(arguments: argparse.Namespace) -> dict[str, Rows]:
    """Measure, and return the table by its title."""
    rows = []
    settings = (arguments.preset, arguments.resolution, arguments.train_batch_size)
    with ExitStack() as stack:
        measures, begun = {}, []
        for name, environment in ENVIRONMENTS.items():
            # OpenMP reads its settings when torch is imported, so each has a process of its own.
            process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin, settings)
            stack.callback(process.shutdown)
            with environment_of(environment):
                begun.append(process.submit(os.getpid))
            measures[name] = partial(_figure, process, name == AS_COMMANDS, arguments.seconds)
        for process_id in begun:
            process_id.result()
        for number in arguments.neighbours:
            with neighbours(number):
                rows.append(_row(number, alternate(measures, arguments.repeats, f"beside {number} programs")))
    title = f"steps a second of {arguments.preset} at {arguments.resolution}x{arguments.resolution}"
    return {f"{title}, batches of {arguments.train_batch_size}, {os.cpu_count()} cores": rows}


def _figure(process: ProcessPoolExecutor, chooses_threads: bool, seconds: float) -> float:
    return process.submit(_measure, chooses_threads, seconds).result()


def _row(number: int, figures: dict[str, list[float]]) -> dict[str, object]:
    steps = {name: spread(values, 3) for name, values in figures.items()}
    return {"busy programs": number, **steps, "times as fast": ratio(figures[AS_COMMANDS], figures[AS_TORCH])}
