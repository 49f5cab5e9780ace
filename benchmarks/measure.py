"""The suites of the benchmarks share this: measuring alternately, spreads and tables."""

import itertools
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from typing import Any

import torch
from tqdm import tqdm

import ddpm_cars
from ddpm_cars.runtime.hardware import device_name

SEED = 0
_PACKAGES = "torch diffusers numpy accelerate datasets pillow".split()

Rows = list[dict[str, Any]]


def default_device() -> torch.device:
    """Return the device that the suites measure on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def environment() -> dict[str, Any]:
    """Return the device, the threads and the versions that figures are measured with."""
    on = {"device": device_name(default_device()), "threads": torch.get_num_threads()}
    versions = {name: version(name) for name in _PACKAGES}
    return {**on, "python": platform.python_version(), **versions, "ddpm_cars": ddpm_cars.__version__}


def wait_for(device: torch.device) -> None:
    """Wait until the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(function: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds that one call takes until the device is done."""
    wait_for(device)
    started = time.perf_counter()
    function()
    wait_for(device)
    return time.perf_counter() - started


class Apart:
    """An object in a process of its own, which does not see the settings of this one, such as how it keeps memory.

    Args:
        make: Makes the object; an importable function or class.
        arguments: Its arguments.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        settings = (torch.get_num_threads(), make, arguments)
        self._process = ProcessPoolExecutor(1, context, initializer=_make_apart, initargs=settings)

    def call(self, method: str, *arguments: Any) -> Any:
        """Return what a method of the object returns."""
        return self._process.submit(_call_apart, method, arguments).result()

    def seconds(self, method: str, *arguments: Any) -> float:
        """Return the seconds that a call of a method takes, without the way to the process and back."""
        return self._process.submit(_seconds_apart, method, arguments).result()

    def close(self) -> None:
        """End the process."""
        self._process.shutdown()


_apart: Any = None


def _make_apart(num_threads: int, make: Callable[..., Any], arguments: tuple) -> None:
    global _apart
    torch.set_num_threads(num_threads)
    _apart = make(*arguments)


def _call_apart(method: str, arguments: tuple) -> Any:
    return getattr(_apart, method)(*arguments)


def _seconds_apart(method: str, arguments: tuple) -> float:
    return seconds_of(lambda: _call_apart(method, arguments), default_device())


def alternate(
    measures: Mapping[str, Callable[[], float]], num_repeats: int, description: str
) -> dict[str, list[float]]:
    """Measure one after the other, again and again, so that other work of the machine slows all of them alike.

    Args:
        measures: Functions by name. Each call gives one figure.
        num_repeats: How many figures each function gives.
        description: Text of the progress bar.

    Returns:
        The figures by name, in order. Figures at the same place belong to one round.
    """
    figures: dict[str, list[float]] = {name: [] for name in measures}
    with tqdm(total=num_repeats * len(measures), desc=description, unit="figure") as bar:
        for _ in range(num_repeats):
            for name, measure in measures.items():
                figures[name].append(measure())
                bar.update()
    return figures


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Return the median, the least and the greatest value, rounded."""
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in figures.items()}


def ratio(numerators: Sequence[float], denominators: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Return the spread of the ratios within each round."""
    return spread([a / b for a, b in zip(numerators, denominators, strict=True)], digits)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['median']} ({value['min']}..{value['max']})"
    return str(value)


def table(rows: Rows) -> str:
    """Write rows as a Markdown table: a spread is its median, its ends in brackets; what a row lacks is empty."""
    names = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    lines = [names, ["---"] * len(names), *[[_cell(row.get(name, "")) for name in names] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
