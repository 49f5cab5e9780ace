"""Processes that share the work of a measurement."""

from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from ddpm_cars.errors import UserError


def _together(work: Callable[[], Any]) -> list[Any]:
    """Do work on every process, and return what each returned; what it raises on one of them, all raise."""
    result = error = None
    try:
        result = work()
    except (UserError, OSError) as raised:
        error = raised
    parts = gather_object([(result, error)])
    errors = [error for _, error in parts if error is not None]
    if errors:
        raise errors[0]
    return [result for result, _ in parts]


class Processes:
    """All processes that Accelerate has started, each of which makes the same calls in the same order.

    Args:
        accelerator: Knows them.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.is_main = accelerator.is_main_process

    def gathered(self, num_rows: int, work: Callable[[range], Any]) -> list[Any]:
        """Return what `work` returns for the consecutive rows of every process, in order, without empty shares."""
        index, size = self.accelerator.process_index, self.accelerator.num_processes
        share = -(-num_rows // size)
        rows = range(min(index * share, num_rows), min((index + 1) * share, num_rows))
        return [part for part in gather_object([work(rows) if rows else None]) if part is not None]

    def agreed(self, decide: Callable[[], Any]) -> Any:
        """Return what `decide` returns on the main process, on all of them."""
        return broadcast_object_list([decide() if self.is_main else None])[0]
