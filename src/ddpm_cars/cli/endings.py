"""How a command ends early: with one line, whatever ends it."""

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, NoReturn

from ddpm_cars.runtime.console import is_main_process
from ddpm_cars.runtime.launcher import let_first_speak

INTERRUPTED = 128 + signal.SIGINT
"""The exit code is what a shell reports of a process that the signal has ended."""
# With the number of SIGPIPE, which Windows does not have.
_BROKEN_PIPE = 128 + 13


def end(prog: str, code: int, message: str) -> NoReturn:
    """Exit with `code` and one line, which says what went wrong with the command `prog` and how to mend it."""
    # Of several processes with one command line, the first one speaks. What it does not know, the others say.
    if not is_main_process():
        let_first_speak(code)
    print(f"{prog}: {' '.join(message.split())}", file=sys.stderr, flush=True)
    sys.exit(code)


@contextmanager
def ended_in_one_line(prog: str) -> Iterator[None]:
    """End with one line where the user interrupts, and with none where nobody reads what is printed any more."""
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
        # Python would complain once more about what is not printed.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        sys.exit(_BROKEN_PIPE)


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
