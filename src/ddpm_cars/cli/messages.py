"""TODO src/ddpm_cars/cli/messages.py."""

import errno
import os
import sys
from pathlib import Path
from typing import NoReturn

# What a person mends with room or permissions; anything else is a mistake of the program.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def _end(code: int, message: str) -> NoReturn:
    """End the process; of several with one command line, the first one speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    sys.exit(code)
