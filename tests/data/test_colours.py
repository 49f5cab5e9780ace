"""Colour profiles: pixels in sRGB, compared with the equations of the profile in float64."""

import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms

from ddpm_cars.data.decoding import decode_image, decode_with_findings
from tests.support.icc_profiles import ADOBE, ADOBE_GAMMA, cmyk_profile, grey_profile, matrix_profile

RED = (200, 60, 30)
# XYZ in D50 of the primaries of sRGB (IEC 61966-2-1, Bradford adaptation).
SRGB = ((0.4360747, 0.3850649, 0.1430804), (0.2225045, 0.7168786, 0.0606169), (0.0139322, 0.0971045, 0.7141733))


def encoded(linear: np.ndarray) -> np.ndarray:
    """The levels of sRGB, 0 to 255, of light between 0 and 1."""
    light = np.clip(linear, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def from_adobe(pixels: np.ndarray) -> np.ndarray:
    light = (np.asarray(pixels, np.float64) / 255) ** ADOBE_GAMMA
    return encoded(light @ np.array(ADOBE).T @ np.linalg.inv(np.array(SRGB)).T)


def from_lab(lightness: float, a: float, b: float) -> np.ndarray:
    y = (lightness + 16) / 116
    f = np.array([y + a / 500, y, y - b / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.9642, 1.0, 0.8249)
    return encoded(np.linalg.inv(np.array(SRGB)) @ xyz)


def file_of(image: Image.Image, kind: str = "png", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def distance(image: Image.Image, expected: np.ndarray) -> float:
    return float(np.abs(np.asarray(image, np.float64) - expected).max())


def test_a_wide_profile_becomes_what_a_viewer_shows():
    data = file_of(Image.new("RGB", (4, 4), RED), icc_profile=matrix_profile())
    image, found = decode_with_findings(data)
    assert distance(image, np.array([231, 57, 21])) <= 1
    assert distance(image, from_adobe(np.array(RED))) <= 1
    assert (found.is_converted, found.profile_fault) == (True, "")


@pytest.mark.parametrize("kind", ["png", "tiff", "webp"])
def test_every_colour_follows_the_matrix_and_the_curve(kind: str):
    pixels = noise((64, 64, 3))
    data = file_of(Image.fromarray(pixels), kind, icc_profile=matrix_profile(), lossless=True)
    assert distance(decode_image(data), from_adobe(pixels)) <= 1


def test_jpeg_and_palette_and_alpha_have_profiles_too():
    wide, orange = matrix_profile(), RED
    expected = from_adobe(np.array(orange))
    square = Image.new("RGB", (16, 16), orange)
    palette = square.convert("P", palette=Image.Palette.ADAPTIVE)
    clear = Image.new("RGBA", (16, 16), (*orange, 51))
    assert distance(decode_image(file_of(square, "jpeg", icc_profile=wide, quality=100)), expected) <= 3
    assert distance(decode_image(file_of(palette, icc_profile=wide)), expected) <= 1
    # The background is one of sRGB already.
    laid = decode_image(file_of(clear, icc_profile=wide), background="#64c800")
    assert distance(laid, 0.2 * expected + 0.8 * np.array([0x64, 0xC8, 0])) <= 1
    # A colour that means transparent is one of the file.
    keyed = file_of(square, icc_profile=wide, transparency=orange)
    assert distance(decode_image(keyed, background="#64c800"), np.array([0x64, 0xC8, 0])) == 0


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_grey_has_a_curve_of_its_own(mode: str):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    data = file_of(Image.fromarray(ramp), icc_profile=grey_profile(1.0))
    expected = encoded(ramp / 255)
    assert distance(decode_image(data, mode), expected if mode == "L" else expected[..., None]) <= 1
    # Browsers show grey with the profile of a colour image.
    coloured = file_of(Image.fromarray(ramp), icc_profile=matrix_profile(SRGB, 1.0))
    assert distance(decode_image(coloured, "L"), expected) <= 1


def test_16_bit_grey_is_converted_behind_its_value_range():
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    data = file_of(Image.fromarray(ramp), icc_profile=grey_profile(1.0))
    expected = encoded(np.rint(ramp / 4095 * 255) / 255)
    assert distance(decode_image(data, "L", value_range=(0, 4095)), expected) <= 1


def test_cmyk_is_the_ink_of_its_profile():
    inks = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    lab = {ink: (100 - 18 * sum(ink[:3]) - 46 * ink[3], -15.0 * ink[0], -20.0 * ink[0]) for ink in inks}
    # The black of all inks is the black of a screen.
    lab[1, 1, 1, 1] = (0, 0, 0)
    profile = cmyk_profile(lab)
    for ink in ((0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 1, 0), (0, 0, 0, 1)):
        for kind, quality in (("tiff", 0), ("jpeg", 100)):
            square = Image.new("CMYK", (16, 16), tuple(255 * part for part in ink))
            image, found = decode_with_findings(file_of(square, kind, quality=quality, icc_profile=profile))
            stored = [round(v) for v in (lab[ink][0] * 2.55, *lab[ink][1:])]
            assert distance(image, from_lab(stored[0] / 2.55, *stored[1:])) <= 3
            assert found.is_converted


def test_cielab_is_shown_as_what_it_is():
    # TIFF holds a and b as signed numbers.
    data = file_of(Image.frombytes("LAB", (4, 4), bytes([128, 20, 256 - 30]) * 16), "tiff")
    with Image.open(BytesIO(data)) as saved:
        assert saved.mode == "LAB"
    assert distance(decode_image(data), from_lab(128 / 2.55, 20, -30)) <= 2


def test_a_profile_that_is_srgb_changes_nothing():
    pixels = noise((32, 32, 3))
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (own, None):
        image, found = decode_with_findings(file_of(Image.fromarray(pixels), icc_profile=profile))
        np.testing.assert_array_equal(np.asarray(image), pixels)
        assert (found.is_converted, found.profile_fault) == (False, "")
    grey = file_of(Image.fromarray(pixels[..., 0]), icc_profile=own)
    np.testing.assert_array_equal(np.asarray(decode_image(grey, "L")), pixels[..., 0])


def broken_chunk(data: bytes) -> bytes:
    """The same PNG with a profile that cannot be decompressed."""
    at = data.index(b"iCCP")
    (length,) = struct.unpack(">I", data[at - 4 : at])
    content = data[at + 4 : at + 4 + length]
    content = content[: content.index(b"\0") + 2] + b"\xff" * (length - content.index(b"\0") - 2)
    return data[: at + 4] + content + struct.pack(">I", zlib.crc32(b"iCCP" + content)) + data[at + 8 + length :]


@pytest.mark.parametrize(
    ("image", "kind", "profile", "fault"),
    [
        (Image.new("RGB", (4, 4), RED), "png", b"no profile", "it is damaged"),
        (Image.new("RGB", (4, 4), RED), "png", matrix_profile()[:200], ""),
        (Image.new("RGB", (4, 4), RED), "png", grey_profile(1.0), "it is one for GRAY, and the pixels are RGB"),
        (
            Image.new("CMYK", (4, 4), (0, 0, 0, 51)),
            "tiff",
            matrix_profile(),
            "it is one for RGB, and the pixels are CMYK",
        ),
        (Image.new("RGB", (4, 4), RED), "png", matrix_profile(np.zeros((3, 3))), "white as [0, 0, 0]"),
        (Image.new("L", (4, 4), 9), "png", grey_profile(0.0), "black as [255, 255, 255]"),
    ],
    ids="text short grey rgb black white".split(),
)
def test_a_profile_that_cannot_be_used_leaves_the_pixels(image: Image.Image, kind: str, profile: bytes, fault: str):
    shown, found = decode_with_findings(file_of(image, kind, icc_profile=profile))
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(decode_image(file_of(image, kind))))
    assert not found.is_converted
    assert found.profile_fault
    assert fault in found.profile_fault


def test_a_jpeg_that_lacks_a_part_of_its_profile_leaves_the_pixels():
    data = bytearray(file_of(Image.new("RGB", (16, 16), RED), "jpeg", quality=100, icc_profile=matrix_profile()))
    data[data.index(b"ICC_PROFILE\0") + 13] = 3
    image, found = decode_with_findings(bytes(data))
    assert (distance(image, np.array(RED)) <= 2, found.profile_fault) == (True, "it is damaged")


def test_a_damaged_chunk_of_a_profile_leaves_the_pixels():
    data = broken_chunk(file_of(Image.new("RGB", (4, 4), RED), icc_profile=matrix_profile()))
    image, found = decode_with_findings(data)
    assert (distance(image, np.array([200, 60, 30])), found.profile_fault) == (0, "it is damaged")


def test_a_build_without_littlecms_says_so(monkeypatch: pytest.MonkeyPatch):
    # Such a build has no module of this name.
    monkeypatch.setitem(sys.modules, "PIL._imagingcms", None)
    # No other test has a profile of this length, whose conversion would be known already.
    profile = matrix_profile(padding=77)
    image, found = decode_with_findings(file_of(Image.new("RGB", (4, 4), RED), icc_profile=profile))
    assert image.getpixel((0, 0)) == RED
    assert not found.is_converted
    assert found.profile_fault == "this build of Pillow has no LittleCMS; install Pillow from PyPI"


def test_threads_share_a_transform():
    pixels = [noise((40, 40 + i, 3)) for i in range(24)]
    profiles = [matrix_profile(gamma=1.8 + i % 3 / 10) for i in range(24)]
    files = [file_of(Image.fromarray(p), icc_profile=one) for p, one in zip(pixels, profiles, strict=True)]
    expected = [np.asarray(decode_image(data)) for data in files]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for shown, one in zip(pool.map(decode_image, files), expected, strict=True):
                np.testing.assert_array_equal(np.asarray(shown), one)
