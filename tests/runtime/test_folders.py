"""One command per folder, and folders that cannot be used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddpm_cars.errors import UserError
from ddpm_cars.runtime.folders import FolderLock, alone_in, prepare_folder

HOLD = """
import sys, time
from pathlib import Path
from ddpm_cars.runtime.folders import alone_in, FolderLock
lock = FolderLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_by_name_until_the_first_is_killed(tmp_path: Path):
    first = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        lock = FolderLock(tmp_path)
        with pytest.raises(UserError, match=rf"in use by another run \(process {first.pid} on .+\)"):
            lock.acquire()
    finally:
        first.kill()
        first.communicate()
    # SIGKILL leaves no time to clean up; the operating system opens the lock.
    lock.acquire()
    lock.release()


def test_a_released_folder_can_be_taken_again(tmp_path: Path):
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    with pytest.raises(UserError, match=f"process {os.getpid()}"):
        second.acquire()
    first.release()
    first.release()
    second.acquire()
    second.release()


def test_an_output_folder_is_made_and_left_empty(tmp_path: Path):
    prepare_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_an_output_folder_that_cannot_be_used_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file; choose another output_dir"):
        prepare_folder(tmp_path / "file")
    with pytest.raises(UserError, match=r"cannot be written to \(Not a directory\)"):
        prepare_folder(tmp_path / "file" / "below")
    # No user may write there, root included.
    with pytest.raises(UserError, match="cannot be written to"):
        prepare_folder(Path("/proc/ddpm-cars"))


def test_a_folder_that_users_share_can_be_locked_by_all_of_them(tmp_path: Path):
    with alone_in(tmp_path):
        pass
    assert {path.stat().st_mode & 0o666 for path in tmp_path.iterdir()} == {0o666}
