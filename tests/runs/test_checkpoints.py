"""Checkpoints: complete or absent, and enough to go on from."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ddpm_cars.runs.checkpoints import (
    delete_leftovers,
    delete_old_checkpoints,
    find_damage,
    load_checkpoint,
    newest_complete,
    save_checkpoint,
)
from ddpm_cars.runs.run_folder import list_checkpoints
from ddpm_cars.runtime.files import atomic_path
from tests.support.disk_helpers import note_disk_events


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_tensors_come_back_with_their_bits_and_types(tmp_path: Path, dtype: torch.dtype):
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    tensors = {"a": {"plain": tensor, "turned": tensor.T}, "b": {"scalar": torch.tensor(2.5)}}
    loaded, state = load_checkpoint(save_checkpoint(tmp_path, 1, tensors, {}))
    assert state == {"step": 1}
    assert set(loaded) == {"a", "b"}
    assert loaded["a"]["plain"].dtype == dtype
    assert loaded["a"]["plain"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert loaded["a"]["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert loaded["b"]["scalar"].shape == ()


def test_only_safetensors_and_json_are_written(tmp_path: Path):
    weights = torch.nn.Linear(3, 2).state_dict()
    path = save_checkpoint(tmp_path, 7, {"unet": weights, "optimizer": {"0.step": torch.tensor(1.0)}}, {})
    assert path == tmp_path / "step-00000007"
    assert {file.name for file in path.iterdir()} == {
        *("manifest.json", "optimizer.safetensors", "state.json", "unet.safetensors")
    }
    assert json.loads((path / "state.json").read_text()) == {"step": 7}
    # A safetensors file begins with the length of a JSON header, which a pickle does not.
    content = (path / "unet.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["weight"]["shape"] == [2, 3]
    assert [file.name for file in tmp_path.iterdir()] == ["step-00000007"]


def test_a_failure_leaves_no_folder_and_keeps_the_old_one(tmp_path: Path):
    tensors = {"unet": {"w": torch.ones(2)}}
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, 1, tensors, {"cannot be JSON": object()})
    assert list(tmp_path.iterdir()) == []
    save_checkpoint(tmp_path, 1, tensors, {"note": "old"})
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, 1, {"unet": {"w": torch.zeros(2)}}, {"cannot be JSON": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    loaded, state = load_checkpoint(tmp_path / "step-00000001")
    assert state["note"] == "old"
    assert loaded["unet"]["w"].tolist() == [1, 1]


def test_a_checkpoint_replaces_one_of_the_same_step_and_what_a_crash_left(tmp_path: Path):
    with atomic_path(tmp_path / "step-00000001") as leftover:
        leftover.mkdir()
    leftover.mkdir()
    (leftover / "stale.safetensors").write_text("stale")
    save_checkpoint(tmp_path, 1, {"unet": {"w": torch.ones(2)}}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    files = sorted(file.name for file in (tmp_path / "step-00000001").iterdir())
    assert files == ["manifest.json", "state.json", "unet.safetensors"]


def test_checkpoints_are_listed_by_step_and_leftovers_are_not(tmp_path: Path):
    assert list_checkpoints(tmp_path / "nowhere") == []
    for step in (100, 20, 3):
        save_checkpoint(tmp_path, step, {}, {})
    for leftover in (".step-00000200.tmp", "step-300", "step-00000400.tmp", "notes", "old-step-00000500"):
        (tmp_path / leftover).mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000003", "step-00000020", "step-00000100"]


@pytest.mark.parametrize(("keep", "left"), [(1, [4]), (2, [3, 4]), (4, [1, 2, 3, 4]), (9, [1, 2, 3, 4])])
def test_the_oldest_beyond_the_limit_are_deleted_and_nothing_else(tmp_path: Path, keep: int, left: list[int]):
    for step in (2, 4, 1, 3):
        save_checkpoint(tmp_path, step, {"unet": {"w": torch.ones(1)}}, {})
    (tmp_path / "mine").mkdir()
    delete_old_checkpoints(tmp_path, keep)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", *(f"step-{step:08d}" for step in left)]


def test_the_manifest_has_the_sizes_and_hashes_of_all_files(tmp_path: Path):
    path = save_checkpoint(tmp_path, 3, {"unet": {"w": torch.ones(4)}, "optimizer": {}}, {"note": "n"})
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["format_version"] == 2
    others = {file.name: file.read_bytes() for file in path.iterdir() if file.name != "manifest.json"}
    assert manifest["files"] == {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in others.items()
    }
    assert find_damage(path) is None


def cut(path: Path) -> None:
    file = path / "unet.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    file = path / "unet.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def age(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format_version": 0}))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (cut, "unet.safetensors is not what was written"),
        (flip_a_bit, "unet.safetensors is not what was written"),
        (lambda path: (path / "state.json").unlink(), "state.json is missing"),
        (lambda path: (path / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda path: (path / "manifest.json").write_text("{"), "it cannot be read"),
        (lambda path: (path / "manifest.json").write_text("[]"), "it cannot be read"),
        (age, "its format is version 0, this program reads up to 2"),
    ],
)
def test_damage_is_found_and_the_newest_complete_one_is_used(
    tmp_path: Path, harm: Callable[[Path], object], words: str
):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"unet": {"w": torch.full((3,), float(step))}}, {})
    assert newest_complete(tmp_path) == (tmp_path / "step-00000003", {})
    harm(tmp_path / "step-00000003")
    found, damaged = newest_complete(tmp_path)
    assert found == tmp_path / "step-00000002"
    assert list(damaged) == [tmp_path / "step-00000003"]
    assert words in damaged[tmp_path / "step-00000003"]
    shutil.rmtree(tmp_path / "step-00000001")
    harm(tmp_path / "step-00000002")
    assert newest_complete(tmp_path)[0] is None
    assert newest_complete(tmp_path / "nowhere") == (None, {})


def test_what_a_crash_left_is_deleted_and_nothing_else(tmp_path: Path):
    save_checkpoint(tmp_path, 1, {}, {})
    (tmp_path / ".step-00000002.tmp").mkdir()
    (tmp_path / ".step-00000002.tmp" / "unet.safetensors").write_text("half")
    (tmp_path / ".step-00000001.old").mkdir()
    (tmp_path / ".mine.tmp").write_text("mine")
    delete_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", "step-00000001"]


def test_a_folder_that_cannot_be_written_gives_an_oserror_and_keeps_the_old_checkpoint(tmp_path: Path):
    path = save_checkpoint(tmp_path, 1, {"unet": {"w": torch.ones(2)}}, {})
    # A file in the way of the temporary folder's parent is a disk that refuses, also for root.
    with pytest.raises(OSError, match="File exists"):
        save_checkpoint(path / "state.json", 2, {"unet": {"w": torch.ones(2)}}, {})
    assert find_damage(path) is None


def test_everything_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    events = note_disk_events(monkeypatch)
    save_checkpoint(tmp_path, 1, {"unet": {"w": torch.ones(2)}}, {})
    named = events.index("named step-00000001")
    assert sorted(events[:named]) == [".step-00000001.tmp", "manifest.json", "state.json", "unet.safetensors"]
    assert events[named + 1 :] == [tmp_path.name]
