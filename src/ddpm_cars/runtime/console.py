"""TODO src/ddpm_cars/runtime/console.py."""

import logging
import sys
from pathlib import Path


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
