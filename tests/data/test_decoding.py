"""Files of images: which ones a folder holds, and their pixels, computed by hand."""

import struct
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image, ImageOps

from ddpm_cars.config.pictures import Resize
from ddpm_cars.data.decoding import decode_image, resize_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
# What is seen of black with alpha 51 = 255 / 5 on #64c800: four fifths of the background.
BACKGROUND, FOUR_FIFTHS = "#64c800", (80, 160, 0)
BEHIND = (100, 200, 0)


def colour(image: Image.Image) -> tuple[int, ...]:
    pixels = np.asarray(image)
    assert np.all(pixels == pixels[0, 0])
    return tuple(np.atleast_1d(pixels[0, 0]).tolist())


def palette(**options: object) -> Image.Image:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*RED, *GREEN])
    image.info.update(options)
    return image


@pytest.mark.parametrize(
    ("image", "suffix", "expected"),
    [
        (Image.new("RGB", (4, 4), RED), "png", RED),
        (Image.new("1", (4, 4), 1), "png", WHITE),
        (Image.new("L", (4, 4), 100), "png", (100, 100, 100)),
        (Image.new("LA", (4, 4), (77, 255)), "png", (77, 77, 77)),
        (Image.new("LA", (4, 4), (0, 51)), "png", FOUR_FIFTHS),
        (Image.new("LA", (4, 4), (77, 0)), "png", BEHIND),
        (Image.new("RGBA", (4, 4), (*RED, 0)), "png", BEHIND),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 51)), "png", FOUR_FIFTHS),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 51)), "webp", FOUR_FIFTHS),
        (palette(), "png", GREEN),
        (palette(transparency=0), "png", GREEN),
        (palette(transparency=1), "png", BEHIND),
        (palette(transparency=1), "gif", BEHIND),
        # Alpha of every entry of the palette: green with 51 / 255 over four fifths of the background.
        (palette(transparency=bytes([255, 51])), "png", (80, 211, 0)),
    ],
)
def test_transparency_shows_the_background_and_no_hidden_colour(
    tmp_path: Path, image: Image.Image, suffix: str, expected: tuple
):
    path = tmp_path / f"image.{suffix}"
    image.save(path, lossless=True, exact=True)
    decoded = decode_image(path, background=BACKGROUND)
    assert decoded.mode == "RGB"
    assert np.abs(np.subtract(colour(decoded), expected)).max() <= 1
    assert colour(decode_image(path.read_bytes(), background=BACKGROUND)) == colour(decoded)
    # ITU-R 601-2 lightness.
    lightness = np.dot(colour(decoded), (0.299, 0.587, 0.114))
    assert colour(decode_image(path, "L", BACKGROUND))[0] == pytest.approx(lightness, abs=1)


def test_palette_with_an_alpha_channel_shows_the_background(tmp_path: Path):
    image = Image.new("PA", (4, 4), (1, 51))
    image.putpalette([*RED, 0, 0, 0])
    image.save(tmp_path / "p.tif")
    with Image.open(tmp_path / "p.tif") as saved:
        assert saved.mode == "PA"
    assert np.abs(np.subtract(colour(decode_image(tmp_path / "p.tif", background=BACKGROUND)), FOUR_FIFTHS)).max() <= 1


def test_a_colour_that_means_transparent_shows_the_background(tmp_path: Path):
    Image.new("RGB", (4, 4), RED).save(tmp_path / "rgb.png", transparency=RED)
    Image.new("L", (4, 4), 9).save(tmp_path / "l.png", transparency=9)
    Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(tmp_path / "16.png", transparency=1000)
    Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(tmp_path / "other.png", transparency=1001)
    for name in ("rgb", "l", "16"):
        assert colour(decode_image(tmp_path / f"{name}.png", background=BACKGROUND)) == BEHIND
    assert colour(decode_image(tmp_path / "other.png", background=BACKGROUND)) == (4, 4, 4)


@pytest.mark.parametrize("background", ["white", "#FFFFFF", "rgb(255, 255, 255)", "#ffffff00"])
def test_the_background_is_white_in_any_notation(tmp_path: Path, background: str):
    Image.new("RGBA", (4, 4)).save(tmp_path / "clear.png")
    decoded = decode_image(tmp_path / "clear.png", background=background)
    assert colour(decoded) == WHITE
    black = Image.new("RGB", (1, 64))
    assert colour(resize_image(black, 64, "pad", background).crop((0, 0, 16, 64))) == WHITE


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
@pytest.mark.parametrize(
    ("cmyk", "rgb"),
    [
        ((0, 0, 0, 0), WHITE),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0, 255, 255, 0), RED),
        ((255, 0, 255, 0), GREEN),
        ((255, 255, 0, 0), BLUE),
        ((0, 0, 0, 51), (204, 204, 204)),
    ],
)
def test_cmyk_is_ink_on_white_paper(tmp_path: Path, suffix: str, cmyk: tuple, rgb: tuple):
    path = tmp_path / f"ink.{suffix}"
    Image.new("CMYK", (16, 16), cmyk).save(path, quality=95)
    # In a JPEG with Adobe's marker 255 stands for no ink.
    assert (b"Adobe" in path.read_bytes()) == (suffix == "jpg")
    assert np.abs(np.asarray(decode_image(path)).astype(int) - rgb).max() <= 2


def sixteen_bits(path: Path, values: np.ndarray, mode: str) -> None:
    image = Image.frombytes(mode, values.shape[::-1], values.astype({"I": "<i4", "I;16": "<u2", "I;16B": ">u2"}[mode]))
    image.save(path)
    with Image.open(path) as saved:
        assert saved.mode == mode


@pytest.mark.parametrize(("mode", "suffix"), [("I;16", "png"), ("I;16", "tif"), ("I;16B", "tif"), ("I", "tif")])
def test_16_bit_grey_is_rounded_to_8_bits(tmp_path: Path, mode: str, suffix: str):
    values = np.array([[0, 128, 129, 256, 257], [32767, 32768, 65278, 65407, 65535]])
    sixteen_bits(tmp_path / f"grey.{suffix}", values, mode)
    # 257 v is what 8 bits v are in 16; half of 257 is 128.5.
    expected = [[0, 0, 1, 1, 1], [127, 128, 254, 255, 255]]
    np.testing.assert_array_equal(np.asarray(decode_image(tmp_path / f"grey.{suffix}", "L")), expected)
    np.testing.assert_array_equal(np.asarray(decode_image(tmp_path / f"grey.{suffix}"))[..., 2], expected)


def test_every_8_bit_level_survives_16_bits(tmp_path: Path):
    levels = np.arange(256).reshape(16, 16)
    sixteen_bits(tmp_path / "ramp.png", levels * 257, "I;16")
    np.testing.assert_array_equal(np.asarray(decode_image(tmp_path / "ramp.png", "L")), levels)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda a: np.rot90(a)),
        (9, lambda a: a),
    ],
)
def test_exif_rotation_is_applied(tmp_path: Path, suffix: str, orientation: int, turn):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    Image.fromarray(pixels).save(path, exif=exif, lossless=True)
    np.testing.assert_array_equal(np.asarray(decode_image(path)), turn(pixels))


def test_a_turned_palette_keeps_its_transparency(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    palette(transparency=1).resize((4, 8)).save(tmp_path / "p.png", exif=exif, transparency=1)
    decoded = decode_image(tmp_path / "p.png", background="blue")
    assert (decoded.size, colour(decoded)) == ((8, 4), BLUE)


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_damaged_exif_costs_nothing(tmp_path: Path, suffix: str):
    path = tmp_path / f"exif.{suffix}"
    Image.new("L", (16, 8), 90).save(path, exif=b"Exif\0\0garbage", lossless=True)
    with Image.open(path) as image, pytest.raises(SyntaxError):
        image.getexif()
    decoded = decode_image(path)
    assert (decoded.size, colour(decoded)) == ((16, 8), (90, 90, 90))


def test_exif_that_cannot_be_written_anew_still_turns_the_picture(tmp_path: Path):
    path = tmp_path / "exif.jpg"
    # Orientation 6, then a tag of text that should be a number.
    entries = b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + b"\x11\x01\x02\0\x04\0\0\0abc\0"
    Image.new("L", (16, 8), 90).save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\x02\0" + entries + b"\0\0\0\0")
    with Image.open(path) as image, pytest.raises(struct.error):
        ImageOps.exif_transpose(image)
    assert decode_image(path).size == (8, 16)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_animations_give_their_first_frame(tmp_path: Path, suffix: str):
    first, *others = [Image.new("RGB", (4, 4), c) for c in (BLUE, RED, GREEN)]
    path = tmp_path / f"moving.{suffix}"
    first.save(path, save_all=True, append_images=others, lossless=True)
    with Image.open(path) as image:
        assert image.n_frames == 3
    assert colour(decode_image(path)) == BLUE


def test_what_a_file_contains_counts_and_not_its_name(tmp_path: Path):
    Image.new("RGB", (4, 4), BLUE).save(tmp_path / "blue.jpg", "png")
    assert colour(decode_image(tmp_path / "blue.jpg")) == BLUE


def test_resizing_keeps_what_it_should():
    thirds = Image.new("RGB", (48, 16), GREEN)
    thirds.paste(RED, (0, 0, 16, 16))
    thirds.paste(BLUE, (32, 0, 48, 16))
    squashed, cropped, padded = (
        np.asarray(resize_image(thirds, 12, how, BACKGROUND)) for how in ("squash", "crop", "pad")
    )
    assert squashed.shape == cropped.shape == padded.shape == (12, 12, 3)
    assert tuple(squashed[6, 1]) == RED
    assert tuple(squashed[6, 6]) == GREEN
    assert tuple(squashed[6, 10]) == BLUE
    assert all(tuple(cropped[6, column]) == GREEN for column in (1, 6, 10))
    assert tuple(padded[1, 6]) == BEHIND
    assert tuple(padded[6, 1]) == RED


@pytest.mark.parametrize(("size", "resolution"), [((48, 16), 12), ((16, 48), 13), ((31, 30), 8), ((20, 20), 9)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_borders_are_those_of_pillow(size: tuple[int, int], resolution: int, mode: str):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    expected = ImageOps.pad(image, (resolution, resolution), Image.Resampling.BICUBIC, color=BACKGROUND)
    np.testing.assert_array_equal(np.asarray(resize_image(image, resolution, "pad", BACKGROUND)), np.asarray(expected))


def test_every_mode_is_a_setting_and_an_unknown_one_is_an_error():
    for mode in get_args(Resize):
        assert resize_image(Image.new("L", (3, 5)), 8, mode).size == (8, 8)
    with pytest.raises(ValueError, match="resize is 'stretch'; give one of squash, crop, pad"):
        resize_image(Image.new("L", (3, 5)), 8, "stretch")


def test_the_thinnest_strip_stays_visible():
    padded = np.asarray(resize_image(Image.new("RGB", (1, 1000), RED), 16, "pad", "white"))
    assert (padded == RED).all(-1).sum() == 16
