"""Output folders: one command at a time writes to one, and it is known to work before there is work to lose."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ddpm_cars.errors import UserError
from ddpm_cars.runtime.console import note

_LOCK = ".lock"


class FolderLock:
    """Keeps a second command out of an output folder, which exists when the lock is taken.

    The operating system opens the lock when the process ends, even if it is killed.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.owner = folder / f"{_LOCK}-owner"
        self._lock = FileLock(folder / _LOCK, blocking=False)

    def acquire(self) -> None:
        """Take the folder. Raises UserError if another command is writing to it."""
        try:
            self._lock.acquire()
        except Timeout as error:
            owner = self.owner.read_text(encoding="utf-8") if self.owner.exists() else "another process"
            raise UserError(
                f"output_dir {self.folder} is in use by another run ({owner}); wait for it, stop it, or choose "
                "another output_dir"
            ) from error
        self.owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")

    def release(self) -> None:
        """Give the folder back."""
        if self._lock.is_locked:
            self.owner.unlink(missing_ok=True)
            self._lock.release()


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
    if train_data_dir is not None and Path(output_dir).resolve().is_relative_to(Path(train_data_dir).resolve()):
        raise UserError(
            f"output_dir {output_dir} is inside train_data_dir {train_data_dir}, where plots and samples would become "
            "training images; choose an output_dir outside of it"
        )


def prepare_folder(folder: Path) -> None:
    """Make an output folder. Raises UserError if it is a file, or cannot be made or written to."""
    probe = folder / f".write-test-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except FileExistsError as error:
        raise UserError(f"output_dir {folder} is a file; choose another output_dir") from error
    except OSError as error:
        raise UserError(
            f"output_dir {folder} cannot be written to ({error.strerror}); mend that, or choose another output_dir"
        ) from error
