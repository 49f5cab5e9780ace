"""What is kept of decoded images: when it is believed, and what a full disk or a kill leaves of it."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from ddpm_cars.cli import commands as cli
from ddpm_cars.data.pictures import Pictures
from ddpm_cars.errors import UserError
from tests.support.disk_helpers import note_disk_events
from tests.support.picture_helpers import BLUE, GREEN, GREY, RED, colours, save

# Decodes the images in sys.argv[1] at 8x8 pixels into the cache in sys.argv[2], and waits for the end of stdin before
# it reads the last one.
SLOW = """
import sys
from pathlib import Path
from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.data.pictures import load_pictures

read_bytes = Path.read_bytes

def wait_and_read(path):
    if path.name == "c.png":
        print("decoding", flush=True)
        sys.stdin.read()
    return read_bytes(path)

Path.read_bytes = wait_and_read
load_pictures(ImageConfig(train_data_dir=sys.argv[1], cache_dir=sys.argv[2], resolution=8))
"""


@contextmanager
def decoding(folder: Path, tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Start a process that is in the middle of decoding."""
    command = [sys.executable, "-c", SLOW, str(folder), str(tmp_path / "cache")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "decoding\n"
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def refused(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[None]:
    """Let the system refuse to read the files of this name."""
    read_bytes = Path.read_bytes

    def read(path: Path) -> bytes:
        if path.name == name:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", read)
        yield


@contextmanager
def few_pixels(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[None]:
    """Let Pillow's limit be too low for the images of every other name."""
    with monkeypatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
        yield


@pytest.mark.parametrize("fault", [refused, few_pixels])
def test_a_picture_that_could_not_be_read_once_is_tried_again(
    load: Callable[..., Pictures],
    folder: Path,
    cached: Callable[[], dict[str, int]],
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable,
):
    Image.new("RGB", (30, 10), BLUE).save(folder / "train" / "a.png")
    (folder / "train" / "empty.png").touch()
    with fault(monkeypatch, "a.png"):
        assert colours(load(max_bad_images_fraction=0.5)) == [RED, GREY]
        once = cached()
        # While the cause lasts, nothing is decoded anew.
        assert [len(load(max_bad_images_fraction=0.5).report["bad_images"]) for _ in range(2)] == [2, 2]
        assert cached() == once
    # The others take what the first process of a machine has kept.
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert colours(load(max_bad_images_fraction=0.5)) == [RED, GREY]
    monkeypatch.delenv("LOCAL_RANK")
    mended = load(max_bad_images_fraction=0.5)
    assert colours(mended) == [BLUE, RED, GREY]
    assert [bad["path"] for bad in mended.report["bad_images"]] == [str(folder / "train" / "empty.png")]
    twice = cached()
    assert (twice.keys(), all(twice[name] > once[name] for name in once)) == (once.keys(), True)
    assert colours(load(max_bad_images_fraction=0.5)) == [BLUE, RED, GREY]
    assert cached() == twice


def test_what_was_read_once_is_not_lost_when_its_file_cannot_be_read_today(
    load: Callable[..., Pictures], cached: Callable[[], dict[str, int]], monkeypatch: pytest.MonkeyPatch
):
    load()
    once = cached()
    with refused(monkeypatch, "a.png"):
        assert colours(load()) == [BLUE, RED, GREY]
    assert cached() == once


class OfFat:
    """The state of a file where the file system keeps no time of change."""

    def __init__(self, status: os.stat_result):
        self._status = status
        self.st_ctime_ns = status.st_mtime_ns

    def __getattr__(self, name: str) -> object:
        return getattr(self._status, name)


@pytest.mark.parametrize("has_time_of_change", [True, False])
def test_another_folder_of_the_same_names_sizes_and_times_is_decoded(
    load: Callable[..., Pictures], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_time_of_change: bool
):
    if not has_time_of_change:
        stat = Path.stat
        monkeypatch.setattr(Path, "stat", lambda path, **options: OfFat(stat(path, **options)))
    # As two archives that were packed with one time leave them.
    for name, shown in (("a", (RED, GREEN)), ("b", (BLUE, GREEN))):
        for i, colour in enumerate(shown):
            save(tmp_path / name / f"{i}.bmp", colour)
            os.utime(tmp_path / name / f"{i}.bmp", (10**9, 10**9))
    assert colours(load(train_data_dir=str(tmp_path / "a"))) == [RED, GREEN]
    assert colours(load(train_data_dir=str(tmp_path / "b"))) == [BLUE, GREEN]
    assert colours(load(train_data_dir=str(tmp_path / "a"))) == [RED, GREEN]


def test_a_file_that_was_changed_in_place_under_its_old_time_is_read_again(
    load: Callable[..., Pictures], tmp_path: Path
):
    # More than are compared with their files; the second is not among those.
    paths = [tmp_path / "many" / f"{i:02d}.bmp" for i in range(40)]
    for path in paths:
        save(path, RED)
    load(train_data_dir=str(tmp_path / "many"))
    before = paths[1].stat()
    save(paths[1], GREEN)
    os.utime(paths[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (paths[1].stat().st_size, paths[1].stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert colours(load(train_data_dir=str(tmp_path / "many"))) == [RED, GREEN, *[RED] * 38]


def test_what_a_killed_pass_has_left_is_deleted_and_nothing_else(
    load: Callable[..., Pictures], folder: Path, tmp_path: Path, cached: Callable[[], dict[str, int]]
):
    cache = tmp_path / "cache" / "ddpm_cars"
    load(resolution=9)
    complete = cached()
    features = cache / ".features-key.safetensors.tmp"
    features.touch()
    # As earlier versions have left them.
    (cache / "key.0.tmp").mkdir()
    (cache / "key.0.tmp" / "images.npy").touch()
    with decoding(folder, tmp_path) as process:
        (left,) = cache.glob(".*.tmp/images.npy")
        process.send_signal(signal.SIGKILL)
    assert left.exists()
    # Nothing half written is read, and nothing is deleted that others may be writing, until there is more to decode.
    load(resolution=9)
    assert left.exists()
    assert colours(load()) == [BLUE, RED, GREY]
    assert not left.exists()
    assert {name: time for name, time in cached().items() if name in complete} == complete
    assert features.exists()
    assert sorted(path.name for path in cache.iterdir() if len(path.name) != 32) == [features.name, ".lock"]


def test_a_second_run_waits_for_the_first_and_reads_what_it_keeps(
    load: Callable[..., Pictures],
    folder: Path,
    tmp_path: Path,
    cached: Callable[[], dict[str, int]],
    capsys: pytest.CaptureFixture,
):
    load(resolution=9)
    with decoding(folder, tmp_path) as process:
        # What is kept already can be read.
        load(resolution=9)
        assert "waiting" not in capsys.readouterr().err
        assert process.stdin is not None
        threading.Timer(0.3, process.stdin.close).start()
        assert colours(load()) == [BLUE, RED, GREY]
        assert process.wait() == 0
    said = capsys.readouterr().err
    assert f"waiting for another process that writes to {tmp_path}/cache/ddpm_cars" in said
    assert "are kept in" not in said
    assert len(cached()) == 6


def test_one_line_says_where_decoded_pictures_are_and_how_large(
    load: Callable[..., Pictures],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    for _ in range(2):
        load(resolution=1024)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "kept in" in line]
    (path,) = (tmp_path / "cache" / "ddpm_cars").glob("[!.]*")
    assert line == f"decoded images of {folder} are kept in {path}, 9 MiB"
    monkeypatch.setenv("RANK", "1")
    load()
    assert "kept in" not in capsys.readouterr().err


@contextmanager
def small_disk(num_bytes: int) -> Iterator[None]:
    """Let the kernel refuse to write more than this into a file, as a full disk or a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_that_names_the_cache_and_the_cure(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    cache = tmp_path / "cache"
    settings = {"train_data_dir": folder, "cache_dir": cache, "output_dir": tmp_path / "out", "resolution": 1024}
    with small_disk(2**20), pytest.raises(SystemExit) as stop:
        cli.show([text for name, value in settings.items() for text in (f"--{name}", str(value))])
    assert stop.value.code == 2
    line = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    refusal = f"the decoded images, 9 MiB, cannot be kept in {cache / 'ddpm_cars'} (File too large)"
    assert line.endswith(f"error: {refusal}; make room or mend that, or choose another --cache_dir")
    assert [path.name for path in (cache / "ddpm_cars").iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_made_is_named_and_other_files_are_not_mistaken_for_it(
    load: Callable[..., Pictures], folder: Path, tmp_path: Path
):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"cannot be kept in {tmp_path}/file/ddpm_cars \(Not a directory\)"):
        load(cache_dir=str(tmp_path / "file"))
    of_dataset = {"train_data_dir": None, "dataset_name": str(folder), "cache_dir": str(tmp_path / "file" / "deeper")}
    with pytest.raises(UserError, match=r"/file.* cannot be written .*choose another cache_dir$"):
        load(**of_dataset)
    with pytest.raises(FileExistsError, match="file"):
        load(report_path=tmp_path / "file" / "pictures.json")


def test_pictures_are_on_the_disk_before_their_folder_has_its_name(
    load: Callable[..., Pictures], cached: Callable[[], dict[str, int]], monkeypatch: pytest.MonkeyPatch
):
    events = note_disk_events(monkeypatch)
    load()
    [key] = {Path(path).parent.name for path in cached() if path.endswith("images.npy")}
    named = events.index(f"named {key}")
    assert {"images.npy", "digests.npy", "record.json"} < set(events[:named])
    # The name, too, which the folder above holds.
    assert len(events) > named + 1
