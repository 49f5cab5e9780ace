"""TODO src/ddpm_cars/runtime/signals.py."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopNotice:
    """Within a `with` block, remembers SIGTERM and SIGINT instead of dying of them; the second one acts as usual."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopNotice":
        # Python lets the main thread only handle signals; elsewhere they are the caller's.
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
