"""One command per folder, and folders that cannot be used."""

import os
import subprocess
import sys
import threading
import time
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


def test_a_folder_that_was_taken_for_nothing_is_as_it_was(tmp_path: Path):
    made, there = FolderLock(tmp_path / "a" / "b"), FolderLock(tmp_path / "mine")
    there.folder.mkdir()
    for lock in (made, there):
        lock.acquire()
        assert lock.path.exists()
        lock.release()
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]
    made.acquire()
    (made.folder / "result").write_text("")
    made.release()
    assert [path.name for path in made.folder.iterdir()] == ["result"]


def test_a_process_of_the_same_launcher_is_told_that_they_do_not_know_each_other(tmp_path: Path):
    children = [
        subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        # The one that is refused ends.
        while all(child.poll() is None for child in children):
            time.sleep(0.02)
        [refused] = [child for child in children if child.poll() is not None]
        assert refused.stderr is not None
        line = refused.stderr.read().decode().splitlines()[-1]
        assert f"started by process {os.getpid()}" in line
        assert line.endswith("launch them with torchrun --nproc_per_node N")
    finally:
        for child in children:
            child.kill()
            child.communicate()


def test_a_process_that_has_not_said_its_name_yet_is_waited_for(tmp_path: Path):
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    first.owner.write_text("")
    late = threading.Timer(0.2, lambda: first.owner.write_text("process 7 on a machine"))
    late.start()
    with pytest.raises(UserError, match=r"in use by another run \(process 7 on a machine\)"):
        second.acquire()
    late.join()
    first.release()


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
