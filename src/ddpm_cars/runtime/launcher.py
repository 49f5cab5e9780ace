"""What a launcher (accelerate launch, torchrun, mpirun) says to each process that it starts, in the environment."""

import os
import signal
import sys
import time

# In the order in which accelerate reads them: of torchrun and accelerate launch, then of three kinds of MPI.
_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_SIZE = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_LOCAL_RANK = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")
_LOCAL_SIZE = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")
# The first process may be this much slower than another one to find the same mistake.
_SECONDS_TO_SPEAK = 10


def _number(names: tuple[str, ...], default: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdecimal()), default)


def rank() -> int:
    """Return the number of this process among all that were launched, from 0."""
    return _number(_RANK, 0)


def local_rank() -> int:
    """Return the number of this process among those of this machine, from 0."""
    return _number(_LOCAL_RANK, 0)


def num_launched() -> int:
    """Return how many processes were launched to work together, on all machines."""
    return _number(_SIZE, 1)


def is_on_one_machine() -> bool:
    """Return whether all processes that were launched run on this machine."""
    return _number(_LOCAL_SIZE, 1) == num_launched()


def lacks_processes() -> bool:
    """Return whether accelerate launch was asked for several processes and has started one.

    It does so on CPUs: it sets the address at which they would meet, and starts a single process without a rank.
    """
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    return by_accelerate and not any(name in os.environ for name in (*_RANK, *_SIZE, *_LOCAL_RANK))


def let_first_speak(code: int) -> None:
    """Wait until the launcher ends this process because the first one has said what is wrong and has ended.

    Launchers stop all processes when one fails. If this one failed first, nobody would say why. The process ends with
    `code` when it is stopped; if nobody stops it, the first process did not fail, and the call returns.
    """
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: sys.exit(code))
    time.sleep(_SECONDS_TO_SPEAK)


def leave() -> None:
    """Make this process one that nobody has launched: it will not wait for the others."""
    for name in (*_RANK, *_SIZE, *_LOCAL_RANK, *_LOCAL_SIZE):
        os.environ.pop(name, None)
