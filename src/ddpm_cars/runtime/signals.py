"""Notices to stop: signals that wait for the end of a step."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopNotice:
    """Remembers the first SIGTERM or SIGINT that comes within a `with` block; the second one acts as usual.

    Attributes:
        signum: The number of the signal that has come, None before.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
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
