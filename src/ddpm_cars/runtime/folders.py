"""Output folders: one command at a time writes to one, and it is known to work before there is work to lose."""

import errno
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ddpm_cars.errors import UserError
from ddpm_cars.runtime.console import note

_LOCK = ".lock"
_NUM_LOOKS, _SECONDS_BETWEEN_LOOKS = 40, 0.05


class FolderLock:
    """Keeps a second command out of an output folder. A command that wrote nothing leaves nothing behind.

    The operating system opens the lock when the process ends, even if it is killed.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / _LOCK
        self.owner = folder / f"{_LOCK}-owner"
        self._lock = FileLock(self.path, blocking=False)
        self._made: list[Path] = []

    def acquire(self) -> None:
        """Make the folder and take it.

        Raises UserError if another command is writing to it, or it is a file or cannot be written to.
        """
        self._made = prepare_folder(self.folder)
        try:
            self._lock.acquire()
            # Whoever held it until now has deleted the file, so that nobody else would find this lock.
            while not self.path.exists():
                self._lock.release()
                self._lock.acquire()
        except Timeout as error:
            owner = self._owner_of_lock()
            raise UserError(
                f"output_dir {self.folder} is in use by another run ({owner}); {_wait_or_connect(owner)}"
            ) from error
        self.owner.write_text(f"process {os.getpid()} on {_parent()}", encoding="utf-8")

    def _owner_of_lock(self) -> str:
        # Whoever has taken the folder just now says so a moment later.
        for _ in range(_NUM_LOOKS):
            with suppress(FileNotFoundError):
                if owner := self.owner.read_text(encoding="utf-8"):
                    return owner
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        return "another process"

    def release(self) -> None:
        """Give the folder back, and delete it if it was made for nothing."""
        if self._lock.is_locked:
            for path in (self.owner, self.path):
                path.unlink(missing_ok=True)
            self._lock.release()
            delete_empty(self._made)


def _parent() -> str:
    return f"{socket.gethostname()}, started by process {os.getppid()}"


def _wait_or_connect(owner: str) -> str:
    """Return what to do about the process that uses a folder."""
    cure = "wait for it, stop it, or choose another output_dir"
    if owner.partition(" on ")[2] != _parent():
        return cure
    return (
        f"{cure}; if a launcher has started this process as well, its processes do not know each other: launch them "
        "with torchrun --nproc_per_node N"
    )


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make a folder, and wait for the end of every other such block on it, also in other processes and after a kill.

    Raises OSError if it cannot be made or locked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Other users of a shared folder may lock it too.
    lock = FileLock(folder / _LOCK, mode=0o666)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        note(f"waiting for another process that writes to {folder}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def refuse_inside(output_dir: str, train_data_dir: str | None) -> None:
    """Raise UserError if an output folder is among training images, where its plots would be trained on next time."""
    if train_data_dir is not None and _resolved(output_dir).is_relative_to(_resolved(train_data_dir)):
        raise UserError(
            f"output_dir {output_dir} is inside train_data_dir {train_data_dir}, where plots and samples would become "
            "training images; choose an output_dir outside of it"
        )


def _resolved(path: str) -> Path:
    # Path.resolve fails where links lead in a circle.
    return Path(os.path.realpath(path))


def refuse_file(folder: Path) -> None:
    """Raise UserError if an output folder is a file, or a link that leads nowhere."""
    if os.path.lexists(folder) and not os.path.isdir(folder):
        kind = "a file" if os.path.exists(folder) else "a link that leads nowhere"
        raise UserError(f"output_dir {folder} is {kind}; choose another output_dir")


def refuse_read_only(folder: Path) -> None:
    """Raise UserError if this user may not write to an output folder, or make it."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise _unwritable(folder, os.strerror(errno.EACCES))


def _unwritable(folder: Path, reason: str | None) -> UserError:
    return UserError(f"output_dir {folder} cannot be written to ({reason}); mend that, or choose another output_dir")


def prepare_folder(folder: Path) -> list[Path]:
    """Make an output folder, and return the folders that were made, the innermost first.

    Raises UserError if it is a file, or cannot be made or written to; then nothing is left.
    """
    refuse_file(folder)
    missing = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    probe = folder / f".write-test-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x" * 4096)
    except OSError as error:
        # A disk that is full takes the file and not what is in it.
        _delete_quietly(probe)
        delete_empty(missing)
        raise _unwritable(folder, error.strerror) from error
    _delete_quietly(probe)
    return missing


def _delete_quietly(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def delete_empty(folders: Iterable[Path]) -> None:
    """Delete those folders that hold nothing, in this order."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
