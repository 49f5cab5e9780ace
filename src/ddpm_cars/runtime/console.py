"""What a command says to the person who started it: each line once, by one process."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from ddpm_cars.runtime.launcher import rank


def is_main_process() -> bool:
    """Return whether this process is the one that speaks; it is known before the processes know each other."""
    return rank() == 0


def say(text: str) -> None:
    """Print lines on the main process, without disturbing a progress bar."""
    if is_main_process():
        tqdm.write(text, file=sys.stdout)


def note(text: str) -> None:
    """Print on the main process what is no result of the command: on stderr."""
    if is_main_process():
        tqdm.write(text, file=sys.stderr)


def warn(text: str) -> None:
    """Print a warning of one line on the main process, without disturbing a progress bar."""
    note(f"warning: {text}")


@contextmanager
def each_warning_once() -> Iterator[None]:
    """Let every message of a logger without a handler through once: a command builds many schedulers of one kind."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_known = message in seen
        seen.add(message)
        return not is_known

    handler = logging.lastResort
    assert handler is not None
    handler.addFilter(is_new)
    try:
        yield
    finally:
        handler.removeFilter(is_new)
