"""Rows of shards become pixels of the right size, or have a reason; the first of a split, and what they cost."""

import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_cars.data.row_decoding import Decoder, first_images, measure
from ddpm_cars.data.shards import open_shards
from ddpm_cars.errors import UserError
from tests.support.streaming_helpers import (
    BAD,
    KINDS,
    NUM_IMAGES,
    SIZE,
    make_config,
    pixels,
    png,
    write_shard,
    write_shards,
)

LENIENT = {"max_bad_images_fraction": 0.5}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(tmp_path: Path, kind: str) -> Path:
    return write_shards(tmp_path / "data", kind)


def decode(folder: Path, num_channels: int = 3, **changes: object) -> list:
    """Read all rows, and return what decoding gives."""
    config = make_config(folder, **changes)
    shards = open_shards(config, "train")
    rows, decoder = list(shards.every_row()), Decoder(config, num_channels, shards)
    for row in rows:
        decoder(row)
    assert {row.image for row in rows} == {None}
    return [row.result for row in rows]


@pytest.mark.parametrize("num_channels", [1, 3])
def test_pictures_are_brought_to_size_as_the_config_says(tmp_path: Path, kind: str, num_channels: int):
    file = BytesIO()
    image = Image.new("RGBA", (16, 8), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (8, 0, 16, 8))
    image.save(file, "PNG")
    write_shard(tmp_path / "wide", kind, 0, [file.getvalue()], [0])
    [pixels] = decode(tmp_path / "wide", num_channels, resize="pad", background="blue")
    assert pixels.shape == (SIZE, SIZE, num_channels)
    red, blue = ([255, 0, 0], [0, 0, 255]) if num_channels == 3 else ([76], [29])
    assert [pixels[0, 0].tolist(), pixels[4, 1].tolist(), pixels[4, 6].tolist()] == [blue, red, blue]


def test_what_cannot_be_decoded_has_a_reason(tmp_path: Path, kind: str):
    results = decode(write_shards(tmp_path / "data", kind, BAD, {9: None}))
    reasons = {n: result for n, result in enumerate(results) if isinstance(result, str)}
    assert set(reasons) == {*BAD, 9}
    assert "not an image" in reasons[3]
    assert reasons[8] == reasons[15] == "holds no image"
    assert reasons[9] == "its class is None, not one of 22"
    good = [n for n in range(NUM_IMAGES) if n not in reasons]
    np.testing.assert_array_equal(np.stack([results[n] for n in good]), pixels(good))


def test_a_network_of_other_channels_is_refused(folder: Path):
    config = make_config(folder)
    with pytest.raises(UserError, match="4 channels"):
        Decoder(config, 4, open_shards(config, "train"))


def test_the_first_pictures_of_a_split_come_in_the_order_of_the_files(folder: Path, kind: str):
    write_shards(folder, kind, BAD)
    for path in list(folder.iterdir()):
        shutil.copy(path, path.with_name(path.name.replace("train", "test")))
    config = make_config(folder, **LENIENT)
    images, labels = first_images(config, 3, "test", 8)
    assert labels.tolist() == [0, 1, 2, 4, 5, 6, 7, 9]
    np.testing.assert_array_equal(images, pixels(labels))
    assert first_images(make_config(folder, class_conditional=False, **LENIENT), 1, "test", 3)[1] is None
    assert len(first_images(config, 3, "test", 100)[0]) == NUM_IMAGES - len(BAD)
    with pytest.raises(UserError, match="1 of the first 4 images cannot be used"):
        first_images(make_config(folder, max_bad_images_fraction=0.0), 3, "test", 8)
    with pytest.raises(UserError, match="no split 'validation'"):
        first_images(config, 3, "validation", 8)


def test_the_first_pictures_have_the_classes_of_the_training_split(tmp_path: Path, kind: str):
    folder = tmp_path / "data"
    path = write_shard(folder, kind, 0, [png(0)], [2])
    shutil.copy(path, folder / path.name.replace("train", "test"))
    write_shard(folder, kind, 0, [png(0)], [1])
    with pytest.raises(UserError, match="split test has the classes 0, 1, 2, and train has 0, 1; they must be"):
        first_images(make_config(folder), 3, "test", 1)


def test_values_of_shards_have_a_range_too(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture):
    folder = tmp_path / "deep"
    ramp = Image.fromarray(np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8))
    frames, deep, signed = BytesIO(), BytesIO(), BytesIO()
    ramp.save(deep, "png")
    Image.fromarray(np.array([[-5, 9]], np.int32)).save(signed, "tiff")
    red = Image.new("RGB", (8, 8), "red")
    red.save(frames, "gif", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")])
    write_shard(folder, kind, 0, [deep.getvalue(), frames.getvalue(), signed.getvalue()], [0, 1, 2])
    measure(make_config(folder), 3)
    place = f"the first 3 images of {folder}"
    values = "from 0 to 4095, where 0 is black and 65535 is white: about 16 of 256 levels are used"
    assert [
        line.partition("; give")[0].partition(", such as")[0] for line in capsys.readouterr().err.splitlines()
    ] == [
        f"warning: 1 of 1 image of {place} hold values {values}",
        f"left out of {place}: 1 frame behind the first one of 1 image",
    ]
    with pytest.raises(UserError, match=r"its values run from -5 to 9; give --value_range -5 9"):
        first_images(make_config(folder, max_bad_images_fraction=0.0), 3, "train", 3)
    images, _ = first_images(make_config(folder, value_range=(0, 4095)), 3, "train", 1)
    assert (images.min(), images.max()) == (0, 255)


def test_costs_are_measured(folder: Path, tmp_path: Path, kind: str):
    costs = measure(make_config(folder), 3, num_images=10)
    assert costs["bytes_per_image"] == sum(len(png(n)) for n in range(10)) / 10
    assert costs["decode_milliseconds_per_image"] > 0
    write_shard(tmp_path / "hollow", kind, 0, [b""], [0])
    with pytest.raises(UserError, match="hold no images"):
        measure(make_config(tmp_path / "hollow"), 3)
