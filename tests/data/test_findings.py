"""What was found in a set of images: what the report holds, what is warned of and what stops everything."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_cars.data.pictures import Pictures
from ddpm_cars.errors import UserError
from tests.data.test_value_range import tiff
from tests.support.icc_profiles import matrix_profile
from tests.support.picture_helpers import BLUE, GREEN, RED, cache_times, colours, load_small

# The hash of some images without profiles that the version before profiles has computed.
EARLIER = "302a5ca4f2712774d02bd166150de8a473fa2abb75d9b1014f6daaf10295b3fc"
TWELVE_BITS = np.linspace(0, 4095, 200).astype(np.uint16).reshape(10, 20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    return folder


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Pictures]:
    return partial(load_small, tmp_path, 1)


def lines(capsys: pytest.CaptureFixture) -> list[str]:
    """Return what was said, without what is said of every set that is decoded."""
    return [
        line for line in capsys.readouterr().err.splitlines() if "are kept in" not in line and "decoding" not in line
    ]


def deep(folder: Path, number: int, values: np.ndarray = TWELVE_BITS) -> None:
    for i in range(number):
        Image.fromarray(values).save(folder / f"deep{i}.tif")


def test_values_that_use_little_of_their_range_are_warned_of(
    load: Callable[..., Pictures], folder: Path, capsys: pytest.CaptureFixture
):
    deep(folder, 3)
    for i in range(2):
        Image.fromarray((TWELVE_BITS // 16).astype(np.uint8)).save(folder / f"shallow{i}.png")
    first = load()
    warning = (
        f"warning: 3 of 3 images of {folder} hold values from 0 to 4095, where 0 is black and 65535 is white: about "
        "16 of 256 levels are used; give --value_range 0 4095 to use all of them; it may not fit 2 images of another "
        "kind: then make all one kind"
    )
    assert lines(capsys) == [warning]
    # The next one comes from the cache.
    assert load().report == first.report
    assert lines(capsys) == [warning]
    assert [(part["black_to_white"], part["num_images"]) for part in first.report["values"]] == [
        ([0, 65535], 3),
        ([0, 255], 2),
    ]


def test_a_range_of_the_files_uses_all_levels_and_is_another_set(
    load: Callable[..., Pictures], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    deep(folder, 2)
    dark, bright = load(), load(value_range=(0, 4095))
    assert len(lines(capsys)) == 1
    assert (dark.images.max() <= 16, bright.images.max() >= 250) == (True, True)
    assert dark.sha256 != bright.sha256
    assert len(cache_times(tmp_path)) == 6
    assert bright.report["clipped"] == {"num_images": 0, "fraction_of_values": 0}
    expected = np.asarray(Image.fromarray(np.rint(TWELVE_BITS / 4095 * 255).astype(np.uint8)).resize((8, 8), 3))
    np.testing.assert_array_equal(bright.images[0, ..., 0], expected)


def test_the_range_is_that_of_most_images(load: Callable[..., Pictures], folder: Path, capsys: pytest.CaptureFixture):
    deep(folder, 39)
    Image.fromarray(TWELVE_BITS * 16).save(folder / "stamped.tif")
    values = load().report["values"]
    assert "39 of 40 images" in lines(capsys)[0]
    assert (values[0]["highest"], values[0]["most"]["highest"]) == (65520, 4095)


@pytest.mark.parametrize(
    ("low", "high", "is_warned_of"), [(0, 64, False), (0, 63, True), (100, 150, True), (0, 1, True), (60, 60, False)]
)
def test_a_quarter_of_the_range_is_enough_and_one_colour_says_nothing(
    load: Callable[..., Pictures], folder: Path, capsys: pytest.CaptureFixture, low: int, high: int, is_warned_of: bool
):
    Image.fromarray(np.array([[low, high]], np.uint8)).save(folder / "a.png")
    load()
    assert [f"give --value_range {low} {high} to use" in line for line in lines(capsys)] == [True] * is_warned_of


def test_what_is_clipped_is_counted(load: Callable[..., Pictures], folder: Path, capsys: pytest.CaptureFixture):
    Image.fromarray(np.array([[-2000, -1024, 3071, 0]], np.int32)).save(folder / "a.tif")
    Image.fromarray(np.array([[-1024, 1, 2, 3071]], np.int32)).save(folder / "b.tif")
    report = load(value_range=(-1024, 3071)).report
    assert report["clipped"] == {"num_images": 1, "fraction_of_values": 0.125}
    clipped = f"12.50% of the values of {folder}, in 1 image, are outside value_range and are clipped"
    assert lines(capsys) == [f"warning: {clipped}"]


def test_a_range_for_other_files_is_noticed(
    load: Callable[..., Pictures], folder: Path, capsys: pytest.CaptureFixture
):
    Image.fromarray((TWELVE_BITS // 16).astype(np.uint8)).save(folder / "shallow.png")
    load(value_range=(0, 4095))
    assert "hold values from 0 to 255, where 0 is black and 4095 is white" in lines(capsys)[0]


def test_one_range_for_several_kinds_of_numbers_is_said(
    load: Callable[..., Pictures], folder: Path, capsys: pytest.CaptureFixture
):
    deep(folder, 2)
    for i in range(3):
        Image.fromarray(TWELVE_BITS.astype(np.float32) / 4095).save(folder / f"float{i}.tif")
    Image.fromarray((TWELVE_BITS // 16).astype(np.uint8)).save(folder / "shallow.png")
    with pytest.raises(UserError, match=r"give --value_range 0 1; it may not fit 3 images of another kind: then make"):
        load()
    load(value_range=(0, 4095))
    assert [line.partition(f"{folder}: ")[2] for line in lines(capsys)] == [
        "2 16-bit (from 0 to 4095), 3 floating-point (from 0 to 1), 1 8-bit (from 0 to 255); where it does not fit "
        "some of them, make all one kind"
    ]


@pytest.mark.parametrize("value_range", [None, (0, 3855)])
def test_colours_of_which_few_bits_are_read_are_promised_nothing(
    load: Callable[..., Pictures], folder: Path, capsys: pytest.CaptureFixture, value_range: tuple | None
):
    # One row of 200 colours of 12 bits in 16.
    pixels = np.repeat(TWELVE_BITS.reshape(1, -1), 3, axis=1)
    (folder / "a.tif").write_bytes(tiff(pixels, tag_256=200, tag_277=3, tag_262=2))
    load(value_range=value_range)
    [line] = lines(capsys)
    assert " of 256 levels are used; Pillow reads the upper 8 bits of colours of 16: write them" in line


def test_numbers_without_a_known_white_stop_everything_with_their_range(
    load: Callable[..., Pictures], folder: Path, tmp_path: Path
):
    for i, (low, high) in enumerate([(-1024, 1500), (-900, 3071), (-3, 3)]):
        Image.fromarray(np.array([[low, high]], np.int32)).save(folder / f"{i}.tif")
    with pytest.raises(UserError) as error:
        load(report_path=tmp_path / "pictures.json")
    assert str(error.value) == (
        f"3 of 3 images of {folder} hold numbers of which nothing says what is black and what is white: they run from "
        f"-1024 to 3071; give --value_range -1024 3071; all are listed in {tmp_path / 'pictures.json'}"
    )
    report = json.loads((tmp_path / "pictures.json").read_text())
    assert report["unknown_range"] == {"num_images": 3, "lowest": -1024, "highest": 3071}
    assert len(load(value_range=(-1024, 3071)).images) == 3


def test_few_of_them_are_bad_images(load: Callable[..., Pictures], folder: Path):
    Image.fromarray(TWELVE_BITS).save(folder / "a.tif")
    Image.fromarray(np.ones((2, 2), np.float32)).save(folder / "b.tif")
    pictures = load(max_bad_images_fraction=0.5)
    assert [bad["reason"] for bad in pictures.report["bad_images"]] == [
        "its values run from 1 to 1; give --value_range LOW HIGH"
    ]
    (folder / "c.tif").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"2 of 3 images of .* cannot be decoded"):
        load(max_bad_images_fraction=0.5)


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tif"])
def test_frames_that_are_left_out_are_counted(
    load: Callable[..., Pictures], folder: Path, capsys: pytest.CaptureFixture, kind: str
):
    first, *others = [Image.new("RGB", (20, 10), colour) for colour in (BLUE, RED, GREEN)]
    for name in ("a", "b"):
        first.save(folder / f"{name}.{kind}", save_all=True, append_images=others, lossless=True)
    first.save(folder / f"single.{kind}", lossless=True)
    pictures = load()
    assert pictures.report["frames_left_out"] == [
        {"path": str(folder / f"{name}.{kind}"), "num_frames": 2} for name in ("a", "b")
    ]
    left_out = f"left out of {folder}: 4 frames behind the first one of 2 images, such as {folder / f'a.{kind}'}"
    assert lines(capsys) == [left_out]


def test_previews_beside_a_photograph_are_no_frames(load: Callable[..., Pictures], folder: Path):
    photograph, preview = Image.new("RGB", (20, 10), RED), Image.new("RGB", (10, 5), RED)
    photograph.save(folder / "a.jpg", "mpo", save_all=True, append_images=[preview])
    with Image.open(folder / "a.jpg") as saved:
        assert (saved.format, saved.n_frames) == ("MPO", 2)
    assert load().report["frames_left_out"] == []


def test_a_stack_that_is_damaged_behind_its_first_frame_gives_that_one(load: Callable[..., Pictures], folder: Path):
    frames = [Image.new("RGB", (20, 10), colour) for colour in (BLUE, RED)]
    frames[0].save(folder / "a.tif", save_all=True, append_images=frames[1:])
    data = (folder / "a.tif").read_bytes()
    (folder / "a.tif").write_bytes(data[:-40])
    assert colours(load(value_range=None)) == [(29,)]


def test_profiles_are_counted_and_broken_ones_named(
    load: Callable[..., Pictures], folder: Path, capsys: pytest.CaptureFixture
):
    orange = Image.new("RGB", (20, 10), (200, 60, 30))
    orange.save(folder / "wide.png", icc_profile=matrix_profile())
    orange.save(folder / "broken.png", icc_profile=b"broken")
    orange.save(folder / "plain.png")
    report = load().report
    assert report["num_converted_to_srgb"] == 1
    assert [fault["path"] for fault in report["profile_faults"]] == [str(folder / "broken.png")]
    (line,) = lines(capsys)
    assert line.startswith(f"warning: the colour profile of 1 image of {folder} cannot be used, such as")


def test_pixels_without_a_profile_are_what_they_always_were(tmp_path: Path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    Image.fromarray(rng.integers(0, 65536, (9, 9), dtype=np.uint16)).save(folder / "deep.png")
    # Runs that began with it go on.
    assert load_small(tmp_path).sha256 == EARLIER
