"""How a command ends when something is wrong: with one line, and never with a traceback for a mistake of the user."""

import errno
import sys
from typing import NoReturn

from ddpm_cars.runtime.console import is_main_process

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""Errors of the disk that a person can mend with space or permissions; any other is a fault of the program."""


def end(prog: str, code: int, message: str) -> NoReturn:
    """Exit with a message in one line.

    Args:
        prog: The command as it was typed, such as "ddpm-cars train".
        code: The exit code.
        message: What went wrong and how to mend it.
    """
    # Of several processes with one command line, the first one speaks.
    if is_main_process():
        print(f"{prog}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
