"""Files that are complete or absent."""

from pathlib import Path

import numpy as np
import pytest

from ddpm_cars.errors import UserError
from ddpm_cars.runtime.files import atomic_path, read_file, remove, rounded, write_text
from tests.support.disk_helpers import note_disk_events


def test_a_failure_leaves_no_file_and_keeps_the_old_one(tmp_path: Path):
    def write_half(path: Path) -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("the power fails")

    with pytest.raises(RuntimeError, match="power"):
        write_half(tmp_path / "new.txt")
    assert list(tmp_path.iterdir()) == []
    write_text(tmp_path / "old.txt", "ü whole")
    with pytest.raises(RuntimeError, match="power"):
        write_half(tmp_path / "old.txt")
    assert [file.name for file in tmp_path.iterdir()] == ["old.txt"]
    assert (tmp_path / "old.txt").read_text(encoding="utf-8") == "ü whole"


def test_nothing_shows_under_the_name_before_the_end(tmp_path: Path):
    path = tmp_path / "folder" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("text")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "text"
    assert not temporary.exists()


def test_a_folder_replaces_another_whole(tmp_path: Path):
    for name in ("old", "new"):
        with atomic_path(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / name).write_text(name)
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["folder", "folder/new"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    events = note_disk_events(monkeypatch)
    write_text(tmp_path / "a.txt", "text")
    assert events == [".a.txt.tmp", "named a.txt", tmp_path.name]


def test_files_and_folders_are_removed_and_may_be_missing(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("")
    (tmp_path / "file").write_text("")
    for name in ("folder", "file", "missing"):
        remove(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.json", "a.yaml"])
def test_a_file_is_read_is_missing_or_is_damaged(tmp_path: Path, name: str):
    path = tmp_path / name
    assert read_file(path) is None
    path.write_text('{"a": [1]}')
    assert read_file(path) == {"a": [1]}
    path.write_text('{"a": [1')
    with pytest.raises(UserError, match=f"{name} cannot be read: .*; mend or remove it"):
        read_file(path)


def test_numbers_are_shortened_to_six_digits():
    assert rounded(np.array([[1 / 3, 123456789.0], [1e-9 / 3, 2]])) == [[0.333333, 123457000.0], [3.33333e-10, 2]]
    assert rounded([np.float32(0.1), [1]]) == [0.1, [1]]
