"""What a command says to the person who started it: each line once, by one process."""

import logging
import sys
from pathlib import Path
from typing import TextIO

from tqdm import tqdm


class _Once(logging.Filter):
    """Lets a message through once: commands build many schedulers of one kind, or measure two models."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_new = message not in self.seen
        self.seen.add(message)
        return is_new


def _warn(message: str) -> None:
    print(f"{Path(sys.argv[0]).name}: warning: {message}", file=sys.stderr)


def say(text: str) -> None:
    """Print lines on the main process, above any progress bar."""
    _print_on_main(text, sys.stdout)


def warn(text: str) -> None:
    """Print a warning in one line on the main process, above any progress bar."""
    _print_on_main(f"warning: {text}", sys.stderr)


def _print_on_main(text: str, stream: TextIO) -> None:
    # Imported late: the command line answers --help before libraries are loaded.
    from accelerate import PartialState

    if PartialState().is_main_process:
        tqdm.write(text, file=stream)
