"""The folder of the command and its batches: which images are missing, and what is refused and deleted."""

import json
from pathlib import Path

import numpy as np
import pytest

from ddpm_cars.config.commands import SampleConfig
from ddpm_cars.errors import UserError
from ddpm_cars.sampling.sample import open_folder, picture_path, request_of, unfinished_batches

SETTINGS = {"model": "m", "weights_sha256": "aa", "seed": 3, "class_labels": [0, 1]}


@pytest.mark.parametrize("num_images", [1, 5, 6, 7, 50])
@pytest.mark.parametrize("batch_size", [1, 3, 6, 64])
def test_whole_batches_are_alike_and_hold_every_missing_picture_once(num_images: int, batch_size: int):
    every = unfinished_batches(set(), num_images, batch_size, whole=True)
    assert {len(batch) for batch in every} == {batch_size}
    # The surplus is less than a batch.
    assert [i for batch in every for i in batch][:num_images] == list(range(num_images))
    assert every[-1].start < num_images
    for seed in range(20):
        rng = np.random.default_rng(seed)
        # What lies beyond the wanted ones changes nothing.
        found = {i for i in range(num_images) if rng.random() < seed / 20} | {num_images + 1, 10**5}
        missing = set(range(num_images)) - found
        whole = unfinished_batches(found, num_images, batch_size, whole=True)
        assert whole == [b for b in every if missing & set(b)]
        # The same without the surplus.
        cut = [range(b.start, min(b.stop, num_images)) for b in whole]
        assert unfinished_batches(found, num_images, batch_size) == cut


def test_nothing_is_missing_from_a_complete_folder():
    assert unfinished_batches(set(range(7)), 7, 3) == []
    assert unfinished_batches(set(range(7)), 8, 3) == [range(6, 8)]
    assert unfinished_batches(set(range(7)), 8, 3, whole=True) == [range(6, 9)]


def test_one_picture_more_than_a_batch_is_a_batch_of_one():
    assert unfinished_batches(set(), 17, 16) == [range(16), range(16, 17)]


@pytest.mark.parametrize(
    ("num_images", "num_processes", "size"), [(16, 1, 16), (16, 2, 8), (7, 3, 3), (2, 4, 1), (33, 2, 16), (500, 2, 16)]
)
def test_few_pictures_are_shared_by_all_processes(num_images: int, num_processes: int, size: int):
    config = SampleConfig(pretrained_model_name_or_path="model", num_images=num_images, batch_size=16)
    assert request_of(config, 10, num_processes).batch_size == size


def test_names_sort_like_numbers_as_far_as_five_digits_go():
    names = [picture_path(Path("d"), i).name for i in (0, 9, 10, 50000, 99999)]
    assert names == sorted(names) == ["00000.png", "00009.png", "00010.png", "50000.png", "99999.png"]
    assert picture_path(Path("d"), 123456).name == "123456.png"


def test_a_folder_says_what_it_has(tmp_path: Path):
    assert open_folder(tmp_path, SETTINGS) == set()
    assert json.loads((tmp_path / "sampling.json").read_text()) == SETTINGS
    for name in ("00000.png", "00007.png", "123456.png", "000008.png", "9.png", "00010.jpg", "grid.png", "a00011.png"):
        (tmp_path / name).write_bytes(b"pixels")
    (tmp_path / ".00012.png.tmp").touch()
    assert open_folder(tmp_path, SETTINGS) == {0, 7, 123456}
    # Half an image of a process that was killed is gone.
    assert not (tmp_path / ".00012.png.tmp").exists()
    assert (tmp_path / "000008.png").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 4}, r"seed 3 \(now 4\); go back to that, choose another output_dir, or pass --overwrite_output_dir"),
        ({"seed": 4, "class_labels": None}, r"with seed 3 \(now 4\), class_labels \[0, 1\] \(now None\); go back"),
        (
            {"model": "n", "weights_sha256": "bb"},
            r"with model m \(now n\), weights of the model that have changed since; go",
        ),
        ({"scheduler": "DDIMScheduler"}, r"scheduler None \(now DDIMScheduler\)"),
    ],
)
def test_pictures_of_other_settings_are_refused(tmp_path: Path, change: dict, words: str):
    open_folder(tmp_path, SETTINGS)
    before = (tmp_path / "sampling.json").read_bytes()
    with pytest.raises(UserError, match=words):
        open_folder(tmp_path, {**SETTINGS, **change})
    assert (tmp_path / "sampling.json").read_bytes() == before


def test_weights_that_have_moved_are_the_same_model(tmp_path: Path):
    open_folder(tmp_path, SETTINGS)
    assert open_folder(tmp_path, {**SETTINGS, "model": "elsewhere/m"}) == set()
    assert json.loads((tmp_path / "sampling.json").read_text()) == SETTINGS


def test_pictures_of_unknown_settings_are_refused(tmp_path: Path):
    for name in ("00004.png", "grid.png", "denoising.png"):
        (tmp_path / name).write_bytes(b"mine")
    for overwrite in (False, True):
        # They may be anybody's: nothing helps but another folder.
        with pytest.raises(UserError, match=r"has images such as 00004.png, but no sampling.json; .* output_dir$"):
            open_folder(tmp_path, SETTINGS, overwrite)
        assert {path.name for path in tmp_path.iterdir()} == {"00004.png", "grid.png", "denoising.png"}
    for text in ("{", "[1]", "7"):
        (tmp_path / "sampling.json").write_text(text)
        with pytest.raises(UserError, match=r"sampling.json cannot be read .*--overwrite_output_dir"):
            open_folder(tmp_path, SETTINGS)
    # The command has left it there, so the images are its own.
    assert open_folder(tmp_path, SETTINGS, overwrite=True) == set()
    assert json.loads((tmp_path / "sampling.json").read_text()) == SETTINGS


def test_a_picture_that_only_has_the_name_of_a_grid_is_not_deleted(tmp_path: Path):
    (tmp_path / "grid.png").write_bytes(b"mine")
    assert open_folder(tmp_path, SETTINGS, overwrite=True) == set()
    assert (tmp_path / "grid.png").read_bytes() == b"mine"


def test_overwriting_deletes_what_the_command_has_written_only(tmp_path: Path):
    open_folder(tmp_path, SETTINGS)
    own = ("00000.png", "123456.png", "grid.png", "denoising.png", ".00003.png.tmp")
    others = ("photo.png", "0.png", "000001.png", "00001.png.txt", "notes.txt", "00002.jpg")
    for name in (*own, *others):
        (tmp_path / name).touch()
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "00000.png").touch()
    assert open_folder(tmp_path, {**SETTINGS, "seed": 8}, overwrite=True) == set()
    assert {path.name for path in tmp_path.iterdir()} == {*others, "more", "sampling.json"}
    assert (tmp_path / "more" / "00000.png").exists()
    assert json.loads((tmp_path / "sampling.json").read_text())["seed"] == 8
