"""Images to pixels, and pixels to batches."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.data.pictures import Pictures, load_pictures, to_samples
from ddpm_cars.training.batches import BatchOrder
from tests.support.picture_helpers import BLUE, GREEN, GREY, RED, colours, save


def test_every_split_is_joined_unless_one_is_named(load: Callable[..., Pictures]):
    pictures = load()
    assert pictures.images.shape == (3, 8, 8, 3)
    assert pictures.images.dtype == np.uint8
    assert not pictures.images.flags.writeable
    assert colours(pictures) == [BLUE, RED, GREY]
    assert (pictures.labels, pictures.class_names) == (None, ())
    assert colours(load(split="train")) == [BLUE, RED]
    assert colours(load(split="test+train[:50%]")) == [GREY, BLUE]
    grey = load(num_channels=1)
    assert grey.images.shape == (3, 8, 8, 1)
    # Luma of ITU-R 601, as Pillow's "L" has it.
    assert colours(grey) == [(29,), (76,), (60,)]


def test_the_background_reaches_the_pixels(load: Callable[..., Pictures], folder: Path):
    Image.new("RGBA", (10, 20)).save(folder / "test" / "c.png")
    padded = load(split="test", resize="pad", background="#102030").images
    assert np.all(padded == (16, 32, 48))
    assert np.all(load(split="test", resize="pad").images == 255)


def test_digests_find_copies(load: Callable[..., Pictures], folder: Path):
    (folder / "train" / "copy.png").write_bytes((folder / "test" / "c.png").read_bytes())
    train, test = load(split="train"), load(split="test")
    assert train.digests.dtype == np.uint64
    assert [digest in test.digests for digest in train.digests] == [False, True, False]


def test_the_hash_covers_the_classes(load: Callable[..., Pictures], tmp_path: Path):
    for name, colour in (("van/a.png", RED), ("car/b.png", BLUE)):
        save(tmp_path / "classes" / name, colour)
    plain, labelled = (load(train_data_dir=str(tmp_path / "classes"), label_column=name) for name in (None, "label"))
    pixels = np.asarray(labelled.images).tobytes()
    assert plain.sha256 == hashlib.sha256(pixels).hexdigest()
    assert labelled.sha256 == hashlib.sha256(pixels + bytes(8) + b"\1" + bytes(7)).hexdigest()


def test_decoding_happens_once_and_again_when_something_changes(
    load: Callable[..., Pictures], folder: Path, cached: Callable[[], dict[str, int]]
):
    first = load()
    once = cached()
    again = load()
    assert cached() == once
    assert len(once) == 3
    np.testing.assert_array_equal(again.images, first.images)
    np.testing.assert_array_equal(again.digests, first.digests)
    assert (again.sha256, again.report) == (first.sha256, first.report)
    changes: list[dict] = [
        {"resize": "crop"},
        {"background": "black"},
        {"num_channels": 1},
        {"resolution": 9},
        {"split": "train"},
        {"excluded_split": "test"},
    ]
    for i, change in enumerate(changes):
        load(**change)
        assert len(cached()) == 3 * (i + 2)
    save(folder / "train" / "a.png", GREEN)
    assert colours(load()) == [GREEN, RED, GREY]
    assert {name: time for name, time in cached().items() if name in once} == once


def test_a_file_of_the_same_size_and_another_time_is_read_again(load: Callable[..., Pictures], folder: Path):
    path = folder / "train" / "a.png"
    Image.new("RGB", (20, 10), BLUE).save(path, "bmp")
    before = path.stat()
    load()
    Image.new("RGB", (20, 10), GREEN).save(path, "bmp")
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert GREEN in colours(load())


def test_a_folder_that_moves_keeps_its_cache(
    load: Callable[..., Pictures], folder: Path, cached: Callable[[], dict[str, int]]
):
    load()
    once = cached()
    folder.rename(folder.with_name("moved"))
    moved = load(train_data_dir=str(folder.with_name("moved")))
    assert cached() == once
    assert moved.report["source"].endswith("moved")


def damage_text(path: Path) -> None:
    path.write_text(path.read_text()[:-5])


def damage_array(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("record.json", damage_text),
        ("record.json", lambda path: path.write_text("[]")),
        ("record.json", lambda path: path.write_text("{}")),
        ("record.json", lambda path: path.write_text('{"bad": [[0, "why"]], "sha256": ""}')),
        ("record.json", Path.unlink),
        ("images.npy", damage_array),
        ("images.npy", lambda path: os.truncate(path, 0)),
        ("images.npy", lambda path: path.write_bytes(b"text" * 99)),
        ("images.npy", lambda path: np.save(path, np.zeros((3, 8, 8, 1), np.uint8))),
        ("images.npy", Path.unlink),
        ("digests.npy", damage_array),
        ("digests.npy", lambda path: np.save(path, np.zeros(2, np.uint64))),
        ("digests.npy", Path.unlink),
    ],
)
def test_a_damaged_cache_is_made_anew(
    load: Callable[..., Pictures], tmp_path: Path, cached: Callable[[], dict[str, int]], name: str, damage: Callable
):
    whole = load()
    expected, once = np.array(whole.images), cached()
    (path,) = (tmp_path / "cache" / "ddpm_cars").glob(f"*/{name}")
    damage(path)
    mended = load()
    np.testing.assert_array_equal(mended.images, expected)
    np.testing.assert_array_equal(mended.digests, whole.digests)
    assert mended.sha256 == whole.sha256
    assert set(cached()) == set(once)
    assert all(time > once[name] for name, time in cached().items())


def test_training_samples_are_all_pictures(load: Callable[..., Pictures], folder: Path, tmp_path: Path):
    config = ImageConfig(train_data_dir=str(folder), cache_dir=str(tmp_path / "cache"), resolution=8)
    samples = to_samples(np.array(load_pictures(config).images))
    assert samples.dtype == torch.float32
    expected = np.asarray(load().images).transpose(0, 3, 1, 2).astype(np.float64) / 255 * 2 - 1
    np.testing.assert_allclose(samples.numpy(), expected, atol=1e-6)
    assert to_samples(np.array(load_pictures(config, 1).images)).shape == (3, 1, 8, 8)


def test_samples_are_the_pixels_in_minus_one_to_one():
    images = np.array([[[[0, 255, 51]]]], dtype=np.uint8)
    samples = to_samples(images)
    assert samples.shape == (1, 3, 1, 1)
    torch.testing.assert_close(samples.flatten(), torch.tensor([-1.0, 1.0, -0.6]))


@pytest.mark.parametrize(("num_images", "batch_size"), [(10, 4), (10, 10), (3, 8), (7, 1)])
def test_every_epoch_shows_every_picture_once(num_images: int, batch_size: int):
    order = BatchOrder(num_images, batch_size, seed=3)
    steps = -(-4 * num_images // batch_size)
    stream = np.concatenate([order(step) for step in range(steps)])
    epochs = [stream[i * num_images : (i + 1) * num_images] for i in range(4)]
    assert all(sorted(epoch) == list(range(num_images)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    fresh = BatchOrder(num_images, batch_size, seed=3)
    np.testing.assert_array_equal(fresh(steps - 1), order(steps - 1))
    others = [BatchOrder(num_images, batch_size, seed=seed)(0).tolist() for seed in range(5)]
    assert len({tuple(other) for other in others}) > 1
