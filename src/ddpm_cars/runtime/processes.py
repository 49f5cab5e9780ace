"""Processes that do one piece of work together, fail together, and notice signals to stop."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env

from ddpm_cars.errors import RunError, UserError
from ddpm_cars.runtime import launcher
from ddpm_cars.runtime.console import warn

_USE_FSDP = "ACCELERATE_USE_FSDP"


def connect() -> PartialState:
    """Connect the processes that a launcher has started, also on CPUs, and return what Accelerate knows of them.

    Raises UserError if there are fewer processes than the launcher was asked for, or they cannot be connected.
    """
    if launcher.lacks_processes():
        raise UserError(
            "accelerate launch was asked for several processes and has started only this one; give it --multi_gpu and "
            "not --cpu, which works on CPUs too, launch with torchrun --nproc_per_node N, or start "
            "one process with ddpm-cars in its place"
        )
    # Accelerate connects processes without an accelerator only if it is told that they compute on the CPU.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    if launcher.num_launched() > 1 and launcher.is_on_one_machine():
        # mpirun does not say where they meet.
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    state = PartialState(cpu=on_cpu)
    if state.num_processes != launcher.num_launched():
        raise UserError(
            f"{launcher.num_launched()} processes were launched, and on {state.device.type} they cannot work "
            "together; start one process, or set ACCELERATE_USE_CPU=true"
        )
    if state.device.type == "cpu" and parse_flag_from_env(_USE_FSDP):
        warn("FSDP spreads a network over GPUs only; on CPUs every process holds all of it")
        # Accelerate would look for a GPU and fail.
        del os.environ[_USE_FSDP]
    return state


def together(work: Callable[[], Any], here: bool = True) -> list[Any]:
    """Do work on the processes where `here` is true, while the others wait: a collective call.

    Returns what the work returned on each process, in order; None for those that waited. A `UserError`, `RunError`,
    `OSError` or `FloatingPointError` of one process is raised on all of them.
    """
    result = error = None
    if here:
        try:
            result = work()
        except (UserError, RunError, OSError, FloatingPointError) as raised:
            error = raised
    parts = gather_object([(result, error)])
    errors = [error for _, error in parts if error is not None]
    if errors:
        raise errors[0]
    return [result for result, _ in parts]


def on_main(work: Callable[[], Any]) -> Any:
    """Do work on the main process while the others wait; its result is returned, or its error raised, on all."""
    return together(work, here=PartialState().is_main_process)[0]


def gathered(num_rows: int, work: Callable[[range], Any]) -> list[Any]:
    """Return what `work` returns for the consecutive rows of every process, in order, without empty shares."""
    state = PartialState()
    share = -(-num_rows // state.num_processes)
    rows = range(min(state.process_index * share, num_rows), min((state.process_index + 1) * share, num_rows))
    return [part for part in together(lambda: work(rows), here=len(rows) > 0) if part is not None]


class StopNotice:
    """Remembers the first SIGTERM or SIGINT that comes within a `with` block; the second one acts as usual."""

    def __init__(self) -> None:
        self.signum: int | None = None  # The signal that has come.
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopNotice":
        # Python lets only the main thread handle signals; in other threads they stay with the caller.
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._previous[signum] = signal.signal(signum, self._remember)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._restore()

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())
