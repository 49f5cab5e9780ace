"""What a command says to the person who started it: each line once, by one process."""

import functools
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from tqdm import tqdm

from ddpm_cars.runtime.launcher import rank

_SECONDS_TO_FIRST_LINE, _SECONDS_BETWEEN_LINES = 5.0, 30.0
_LINE = "{desc}: {unit} {n:,} of {total:,}, {remaining} left{postfix}"


# What is raised where a disk is full, a reader has gone, a stream is closed, or there is none (None).
# Words that cannot be said end no work.
_unsaid = suppress(OSError, ValueError, AttributeError)


def is_main_process() -> bool:
    """Return whether this process is the one that speaks; it is known before the processes know each other."""
    return rank() == 0


def say(text: str) -> None:
    """Print lines on the main process, without disturbing a progress bar."""
    _write(text, sys.stdout)


def note(text: str) -> None:
    """Print on the main process what is no result of the command: on stderr."""
    _write(text, sys.stderr)


@functools.cache
def note_once(text: str) -> None:
    """Print what is no result of the command, unless this process has printed it before."""
    note(text)


def _write(text: str, stream: TextIO | None) -> None:
    # A process without this stream has None.
    if is_main_process() and stream is not None:
        with _unsaid:
            tqdm.write(text, file=stream)


def warn(text: str) -> None:
    """Print a warning of one line on the main process, without disturbing a progress bar."""
    note(f"warning: {text}")


def count(number: int, noun: str) -> str:
    """Return a number with its noun: "1 image", "2,000 images"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def progress(iterable: Iterable[Any] | None = None, **settings: Any) -> tqdm:
    """Return a progress bar, of which a log file or a pipe gets a line every 30 seconds instead.

    Args:
        iterable: What is to be gone through; None where the caller counts.
        settings: As `tqdm` takes them; `desc`, `unit` (one of what is counted) and `total` are needed.
    """
    return tqdm(iterable, **{**progress_style(), **settings})


def shows_bars() -> bool:
    """Return whether progress is a bar, and not lines of a log file."""
    # A notebook has no terminal, and shows bars.
    is_terminal = sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()
    return is_terminal or "ipykernel" in sys.modules


def progress_style() -> dict[str, Any]:
    """Return the settings of `tqdm` that depend on where its output goes, for progress bars that others make."""
    if shows_bars():
        return {}
    return {"file": _Lines(), "bar_format": _LINE, "mininterval": 1.0, "unit": "step"}


class _Lines:
    """A file for `tqdm`, which writes its text anew again and again: some of it reaches stderr, as whole lines."""

    def __init__(self) -> None:
        self._due = time.monotonic() + _SECONDS_TO_FIRST_LINE
        self._text = ""  # The text that was written just now.
        self._said = ""

    def write(self, text: str) -> None:
        # tqdm goes back to the beginning of the line, and goes to the next one after the text that it leaves there.
        is_end = text == "\n" and bool(self._text)
        self._text = self._text if is_end else text.strip() if text.startswith("\r") else ""
        if self._text and self._text != self._said and (is_end or time.monotonic() >= self._due):
            with _unsaid:
                sys.stderr.write(f"{self._text}\n")
            self._said, self._due = self._text, time.monotonic() + _SECONDS_BETWEEN_LINES

    def flush(self) -> None:
        with _unsaid:
            sys.stderr.flush()


class _Unfailing:
    """A stream that takes every text, also where the stream behind it does not."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with _unsaid:
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with _unsaid:
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def words_end_no_work() -> Iterator[None]:
    """Let stdout and stderr take every text, whoever writes it: also the libraries that do the work."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Unfailing, streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for stream in streams:
            flush_or_silence(stream)


def flush_or_silence(stream: TextIO) -> None:
    """Flush a stream. If that fails it leads nowhere: Python would complain at the end about what it still holds."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with _unsaid, open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())


@contextmanager
def each_warning_once() -> Iterator[None]:
    """Let every message of a logger without a handler through once, as "warning: ..." or "error: ...".

    A command builds many schedulers of one kind.
    """
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_known = message in seen
        seen.add(message)
        record.levelname = record.levelname.lower()
        return not is_known

    handler = logging.lastResort
    assert handler is not None
    handler.addFilter(is_new)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    try:
        yield
    finally:
        handler.removeFilter(is_new)
        handler.setFormatter(None)
