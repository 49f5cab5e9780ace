"""How a command ends early: with one line, whatever ends it."""

import errno
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, NoReturn

from ddpm_cars.runtime.console import flush_or_silence, is_main_process, note
from ddpm_cars.runtime.launcher import let_first_speak

INTERRUPTED = 128 + signal.SIGINT
"""The exit code is what a shell reports of a process that the signal has ended."""
# With the number of SIGPIPE, which Windows does not have.
_BROKEN_PIPE = 128 + 13
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""Errors of the disk that a person can mend with space or permissions; any other is a fault of the program."""


def end(prog: str, code: int, message: str) -> NoReturn:
    """Exit with `code` and one line, which says what went wrong with the command `prog` and how to mend it."""
    # Of several processes with one command line, the first one speaks. What it does not know, the others say.
    if not is_main_process():
        let_first_speak(code)
    note(f"{prog}: {' '.join(message.split())}")
    flush_or_silence(sys.stderr)
    sys.exit(code)


@contextmanager
def ended_in_one_line(prog: str) -> Iterator[None]:
    """End with one line where the user interrupts, and with none where nobody reads what is printed any more."""
    _open_streams()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        end(prog, INTERRUPTED, "interrupted")
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        flush_or_silence(sys.stdout)
        sys.exit(_BROKEN_PIPE)
    except OSError as error:
        # Errors of files that are read or written have the name of the file.
        if error.errno not in DISK_ERRORS or error.filename is not None:
            raise
        flush_or_silence(sys.stdout)
        end(prog, 1, f"error: what is printed cannot be written: {error.strerror}")


def _open_streams() -> None:
    """Give a process that was started without stdout or stderr one that leads to nowhere."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            # The names of files may have characters that a terminal does not.
            stream.reconfigure(errors="backslashreplace")


def _nobody_reads() -> bool:
    """Return whether stdout is a pipe whose reader has gone, as after `| head`."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def import_libraries(prog: str, module: str) -> None:
    """Import a module of the package and with it libraries, which takes seconds; an interruption ends it at once.

    A library that is missing is left to whoever imports it next.
    """

    def stop(*_: Any) -> NoReturn:
        # An exception may be lost in a library that is being imported, or come back as another one. Nothing has been
        # written so far.
        if is_main_process():
            print(f"{prog}: interrupted", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)

    # A shell has programs in the background ignore the signal, and others may handle it in their own way.
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGINT, stop)
    try:
        with suppress(ModuleNotFoundError):
            import_module(module)
    finally:
        signal.signal(signal.SIGINT, before)
