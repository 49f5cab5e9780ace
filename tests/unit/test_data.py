"""Pictures to pixels, and pixels to batches."""

import itertools
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_cars.config import ConfigError, ImageConfig
from ddpm_cars.data import BatchOrder, decode_image, load_images, resize_image, step_seed, to_samples

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def corner(image: Image.Image) -> tuple[int, ...]:
    return tuple(np.asarray(image)[0, 0].reshape(-1).tolist())


@pytest.mark.parametrize(
    ("image", "suffix", "expected"),
    [
        (Image.new("RGB", (4, 4), RED), "png", RED),
        (Image.new("L", (4, 4), 100), "png", (100, 100, 100)),
        (Image.new("LA", (4, 4), (0, 0)), "png", (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (*RED, 0)), "png", (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 51)), "png", (204, 204, 204)),
        (Image.fromarray(np.full((4, 4), 32896, np.uint16)), "png", (128, 128, 128)),
        (Image.new("1", (4, 4), 1), "png", (255, 255, 255)),
        (Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "jpg", (0, 0, 0)),
    ],
    ids=["rgb", "grey", "grey-alpha", "hidden-colour", "translucent", "16-bit", "bilevel", "cmyk"],
)
def test_pictures_are_decoded_as_a_viewer_shows_them(tmp_path: Path, image: Image.Image, suffix: str, expected: tuple):
    path = tmp_path / f"picture.{suffix}"
    image.save(path)
    decoded = decode_image(path)
    assert decoded.mode == "RGB"
    assert np.abs(np.subtract(corner(decoded), expected)).max() <= 1
    assert corner(decode_image(path.read_bytes())) == corner(decoded)
    assert decode_image(path, "L").mode == "L"


def test_palette_transparency_shows_white(tmp_path: Path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*RED, *GREEN])
    image.save(tmp_path / "p.png", transparency=1)
    assert corner(decode_image(tmp_path / "p.png")) == (255, 255, 255)


def test_exif_rotation_is_applied_and_animations_give_their_first_frame(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4), RED).save(tmp_path / "turned.jpg", exif=exif)
    assert decode_image(tmp_path / "turned.jpg").size == (4, 8)
    frames = [Image.new("RGB", (4, 4), colour) for colour in (BLUE, RED)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert corner(decode_image(tmp_path / "a.gif")) == BLUE


def test_resizing_keeps_what_it_should():
    thirds = Image.new("RGB", (48, 16), GREEN)
    thirds.paste(RED, (0, 0, 16, 16))
    thirds.paste(BLUE, (32, 0, 48, 16))
    squashed, cropped, padded = (np.asarray(resize_image(thirds, 12, how)) for how in ("squash", "crop", "pad"))
    assert squashed.shape == cropped.shape == padded.shape == (12, 12, 3)
    assert tuple(squashed[6, 1]) == RED
    assert tuple(squashed[6, 6]) == GREEN
    assert tuple(squashed[6, 10]) == BLUE
    assert all(tuple(cropped[6, column]) == GREEN for column in (1, 6, 10))
    assert tuple(padded[1, 6]) == (255, 255, 255)
    assert tuple(padded[6, 1]) == RED


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for i, name in enumerate(("train/a.png", "train/sub folder/ü b.PNG", "test/c.jpg")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L" if i == 2 else "RGB", (20, 10), (60, RED, BLUE)[2 - i]).save(path)
    return folder


@pytest.fixture
def load(folder: Path, tmp_path: Path) -> Callable[..., np.ndarray]:
    def load(num_channels: int = 3, **changes: object) -> np.ndarray:
        settings = {"train_data_dir": str(folder), "cache_dir": str(tmp_path / "cache"), "resolution": 8, **changes}
        return load_images(ImageConfig(**settings), num_channels)

    return load


def test_every_split_is_joined_unless_one_is_named(load: Callable[..., np.ndarray]):
    images = load()
    assert images.shape == (3, 8, 8, 3)
    assert images.dtype == np.uint8
    colours = {tuple(image[4, 4].tolist()) for image in images}
    assert colours == {BLUE, RED, (60, 60, 60)}
    assert len(load(split="train")) == 2
    assert load(num_channels=1).shape == (3, 8, 8, 1)


def test_decoding_happens_once_and_again_when_something_changes(
    load: Callable[..., np.ndarray], folder: Path, tmp_path: Path
):
    def cached() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "ddpm_cars").iterdir()}

    load()
    once = cached()
    load()
    assert cached() == once
    assert all(name.endswith(".npy") for name in once)
    assert len(once) == 1
    load(resize="crop")
    assert len(cached()) == 2
    Image.new("RGB", (20, 10), GREEN).save(folder / "train" / "a.png")
    assert GREEN in {tuple(image[4, 4].tolist()) for image in load()}


def test_a_bad_picture_is_named_and_leaves_nothing(load: Callable[..., np.ndarray], folder: Path, tmp_path: Path):
    (folder / "train" / "broken.png").write_bytes(b"not a picture")
    (folder / "train" / "short.png").write_bytes((folder / "train" / "a.png").read_bytes()[:44])
    with pytest.raises(ConfigError, match=r"2 of 5 pictures.*broken\.png") as error:
        load()
    assert "short.png" in str(error.value)
    assert list((tmp_path / "cache" / "ddpm_cars").iterdir()) == []


def test_what_cannot_be_found_is_named(load: Callable[..., np.ndarray], tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for changes, words in (
        ({"train_data_dir": str(tmp_path / "nowhere")}, "nowhere is not a folder"),
        ({"train_data_dir": str(tmp_path / "empty")}, "no pictures can be read from .*empty"),
        ({"split": "validation"}, "validation"),
        ({"image_column": "photo"}, "no column 'photo'"),
        ({"num_channels": 4}, "4 channels"),
    ):
        with pytest.raises(ConfigError, match=words):
            load(**changes)


def test_a_local_dataset_with_embedded_pictures(tmp_path: Path, load: Callable[..., np.ndarray]):
    rows = {"image": [Image.new("RGB", (9, 9), RED), Image.new("RGB", (9, 9), BLUE)], "label": [0, 1]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    (tmp_path / "parquet").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "parquet" / "train.parquet")
    images = load(train_data_dir=None, dataset_name=str(tmp_path / "parquet"))
    assert [tuple(image[0, 0].tolist()) for image in images] == [RED, BLUE]


def test_samples_are_the_pixels_in_minus_one_to_one():
    images = np.array([[[[0, 255, 51]]]], dtype=np.uint8)
    samples = to_samples(images)
    assert samples.shape == (1, 3, 1, 1)
    torch.testing.assert_close(samples.flatten(), torch.tensor([-1.0, 1.0, -0.6]))


def test_step_seeds_differ_and_stay():
    seeds = {step_seed(*path) for path in itertools.product((0, 1), (0, 1, 2), (0, 1))} | {step_seed(0, 0)}
    assert len(seeds) == 13
    assert all(0 <= seed < 2**63 for seed in seeds)
    # A change here would change every run.
    assert step_seed(7, 11) == 7773493329791651165


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
