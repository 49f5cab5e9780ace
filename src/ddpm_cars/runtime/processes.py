"""Processes that do one piece of work together, and fail together."""

from collections.abc import Callable
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from ddpm_cars.errors import RunError, UserError


def together(work: Callable[[], Any], here: bool = True) -> list[Any]:
    """Do work on the processes where `here` is true; an error of one of them is raised on all of them.

    Args:
        work: What to do. Other errors than `UserError`, `RunError` and `OSError` stay on their process.
        here: Whether this process does it. The others wait.

    Returns:
        What the work returned on each process, in order; None for those that waited.
    """
    result = error = None
    if here:
        try:
            result = work()
        except (UserError, RunError, OSError) as raised:
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
