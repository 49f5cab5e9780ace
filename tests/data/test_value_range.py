"""Numbers to brightness: which values are black and white, what lies outside, and what is asked where nobody knows."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_cars.data.decoding import decode_image, decode_with_findings
from ddpm_cars.data.findings import ImageError, ValuesError
from ddpm_cars.data.value_range import to_8_bits, to_unit


def tiff(values: np.ndarray, **tags: int) -> bytes:
    """Return a TIFF of one strip as the specification has it, whose tags say what its numbers are."""
    height, width = values.shape
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    order = ">" if values.dtype.byteorder == ">" else "<"
    bits, white_is = values.dtype.itemsize * 8, 1
    fields = {256: width, 257: height, 258: bits, 259: 1, 262: white_is, 273: 8, 277: 1, 278: height}
    fields |= {279: values.nbytes, 339: kind} | {int(name.removeprefix("tag_")): value for name, value in tags.items()}
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in sorted(fields.items()))
    at = 8 + values.nbytes
    head = (b"MM" if order == ">" else b"II") + struct.pack(f"{order}HI", 42, at)
    return head + values.tobytes() + struct.pack(f"{order}H", len(fields)) + entries + bytes(4)


def file_of(image: Image.Image, kind: str = "png", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def levels(data: bytes, value_range: tuple[float, float] | None = None, mode: str = "L") -> list:
    return np.asarray(decode_image(data, mode, value_range=value_range)).tolist()


def test_a_range_becomes_0_to_1_and_ends_are_clipped():
    values = np.array([-2000, -1024, 0, 1023.5, 3071, 9999])
    np.testing.assert_allclose(to_unit(values, (-1024, 3071)), [0, 0, 1024 / 4095, 0.5, 1, 1], atol=1e-15)
    assert to_unit(values.astype(np.float32), (-1024, 3071)).dtype == np.float64
    np.testing.assert_array_equal(values, [-2000, -1024, 0, 1023.5, 3071, 9999])


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_table_gives_what_the_formula_gives(kind: type):
    values = np.arange(np.iinfo(kind).max + 1).astype(kind)
    for low, high in ((0, int(values[-1])), (100, 200), (-50.5, 77.25)):
        expected = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255
        assert np.abs(to_8_bits(values, (low, high)) - expected).max() <= 0.5
    full = to_8_bits(values, (0, int(values[-1])))
    # The nearest level of every number of 16 bits, in whole numbers.
    np.testing.assert_array_equal(full, (values.astype(int) + 128) // 257 if kind is np.uint16 else values)


TWELVE = np.array([[0, 16, 2048, 4095]], np.uint16)


@pytest.mark.parametrize(
    ("values", "value_range", "expected"),
    [
        (TWELVE, (0, 4095), [[0, 1, 128, 255]]),
        (TWELVE.astype(">u2"), (0, 4095), [[0, 1, 128, 255]]),
        (TWELVE, None, [[0, 0, 8, 16]]),
        (TWELVE.astype(np.uint32) + 100_000, (100_000, 104_095), [[0, 1, 128, 255]]),
        (np.array([[-1024, 1024, 3071]], np.int16), (-1024, 3071), [[0, 128, 255]]),
        (np.array([[-1024, 1024, 3071]], ">i2"), (-1024, 3071), [[0, 128, 255]]),
        (np.array([[-1024, 1024, 3071]], np.int32), (-160, 240), [[0, 255, 255]]),
        (np.array([[0, 3_000_000_000, 4_000_000_000]], np.uint32), (0, 4e9), [[0, 191, 255]]),
        (np.array([[-128, -1, 0, 127]], np.int8), (-128, 127), [[0, 127, 128, 255]]),
        (np.array([[0, 0.25, 1, 2]], np.float32), (0, 1), [[0, 64, 255, 255]]),
        (np.array([[0, 0.25, 1, 2]], ">f4"), (0, 1), [[0, 64, 255, 255]]),
        (np.array([[0, 100, 255]], np.uint8), (50, 150), [[0, 128, 255]]),
    ],
)
def test_the_numbers_of_a_file_have_its_own_units(values: np.ndarray, value_range: tuple | None, expected: list):
    assert np.abs(np.subtract(levels(tiff(values), value_range), expected)).max() <= 0
    assert levels(tiff(values), value_range, "RGB")[0] == [[level] * 3 for level in expected[0]]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([[-1024, 3071]], np.int16), "its values run from -1024 to 3071; give --value_range -1024 3071"),
        (np.array([[0, 65536]], np.int32), "its values run from 0 to 65536; give --value_range 0 65536"),
        (np.array([[0, 123_456_789]], np.int32), "from 0 to 123456789; give --value_range 0 123456789"),
        (np.array([[0, 4_000_000_000]], np.uint32), "from 0 to 4000000000; give"),
        (np.array([[-128, 127]], np.int8), "its values run from -128 to 127; give --value_range -128 127"),
        (np.array([[0, 1]], np.float32), "its values run from 0 to 1; give --value_range 0 1"),
        (np.array([[0.125, 0.5]], np.float32), "its values run from 0.125 to 0.5; give --value_range 0.12 0.5"),
        (np.array([[9.298779e-06, 1]], np.float32), "from 9.298779e-06 to 1; give --value_range 0 1$"),
        (np.array([[-998.97, 999.8]], np.float32), "give --value_range -1000 1000$"),
        (np.array([[1.234e-40, 5.678e-40]], np.float32), "give --value_range 1.2e-40 5.7e-40$"),
        (np.array([[-3.1e38, 3.1e38]], np.float32), r"give --value_range -3.1e\+38 3.1e\+38$"),
        (np.array([[3, 3]], np.float32), "its values run from 3 to 3; give --value_range LOW HIGH"),
    ],
)
def test_numbers_without_a_known_white_say_their_range(values: np.ndarray, reason: str):
    with pytest.raises(ValuesError, match=reason) as error:
        decode_image(tiff(values))
    assert (error.value.low, error.value.high) == (values.min(), values.max())


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("value_range", [None, (0, 1)])
def test_what_is_no_number_is_a_reason(number: float, value_range: tuple | None):
    values = np.array([[0, number, 1]], np.float32)
    with pytest.raises(ImageError, match=r"^1 of its 3 values are not finite numbers") as error:
        decode_image(tiff(values), value_range=value_range)
    assert not isinstance(error.value, ValuesError)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_file_that_says_that_0_is_white_is_turned_round(kind: type):
    values = np.array([[0, 51, 255]], kind) * (np.iinfo(kind).max // 255)
    assert levels(tiff(values, tag_262=0)) == [[255, 204, 0]]
    top = int(values[0, 1])
    assert levels(tiff(values, tag_262=0), (0, top)) == [[255, 0, 0]]
    _, found = decode_with_findings(tiff(values, tag_262=0), value_range=(0, top))
    assert (found.low, found.high, found.num_clipped) == (0, values.max(), 1)


def test_a_file_of_12_bits_has_a_white_of_12_bits():
    # Two numbers in three bytes: 0 and 4095.
    packed = np.frombuffer(b"\x00\x0f\xff", np.uint8).reshape(1, 3)
    data = tiff(packed, tag_256=2, tag_258=12)
    assert levels(data) == [[0, 255]]
    assert decode_with_findings(data)[1].black_to_white == (0, 4095)


def test_a_format_whose_numbers_pillow_misreads_is_refused():
    lines = ["SIMPLE  = T", "BITPIX  = {}", "NAXIS   = 2", "NAXIS1  = 3", "NAXIS2  = 1", "END"]
    for bits, values in ((16, np.array([0, 300, 1000], ">i2")), (-32, np.array([0, 0.5, 1], ">f4"))):
        header = "".join(line.format(bits).ljust(80) for line in lines).ljust(2880).encode()
        with pytest.raises(ImageError, match="FITS files of more than 8 bits; convert it to TIFF"):
            decode_image(header + values.tobytes().ljust(2880, b"\0"), value_range=(0, 1000))


def test_what_pillow_scales_to_16_bits_needs_no_range():
    grey = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    jpeg_2000 = file_of(Image.fromarray(grey * 16), "jpeg2000")
    pgm = b"P5 64 64 4095\n" + grey.astype(">u2").tobytes()
    for data in (jpeg_2000, pgm):
        assert np.abs(np.array(levels(data)) - grey / 4095 * 255).max() <= 1


def test_colours_of_16_bits_have_the_units_of_16_bits(tmp_path: Path):
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    # One row of 16-bit colours: black, and 4095 in every channel.
    row = b"\0" + struct.pack(">6H", 0, 0, 0, 4095, 4095, 4095)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    assert levels(data, None, "RGB") == [[[0] * 3, [15] * 3]]
    # Pillow has the upper 8 bits.
    shown, found = decode_with_findings(data, value_range=(0, 4095))
    assert np.asarray(shown).tolist() == [[[0] * 3, [round(15 * 257 / 4095 * 255)] * 3]]
    assert (found.low, found.high) == (0, 15 * 257)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGB", (2, 2), (50, 100, 200)), (0, 128, 255)),
        (Image.new("RGBA", (2, 2), (50, 100, 200, 255)), (0, 128, 255)),
        # The background is none of the values of a file.
        (Image.new("RGBA", (2, 2), (50, 100, 200, 0)), (10, 20, 30)),
        (Image.new("LA", (2, 2), (100, 255)), (128, 128, 128)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("RGB", (2, 2), (50, 100, 200)).convert("P", palette=Image.Palette.ADAPTIVE), (0, 128, 255)),
    ],
    ids="RGB RGBA clear LA 1 P".split(),
)
def test_every_kind_of_image_takes_a_range(image: Image.Image, expected: tuple):
    shown = decode_image(file_of(image), background="#0a141e", value_range=(50, 150))
    assert shown.getpixel((0, 0)) == expected


def test_ink_takes_a_range_as_the_colour_that_it_is():
    grey = Image.new("CMYK", (2, 2), (0, 0, 0, 155))
    shown, found = decode_with_findings(file_of(grey, "tiff"), value_range=(0, 100))
    assert shown.getpixel((0, 0)) == (255, 255, 255)
    assert (found.low, found.high, found.num_clipped) == (100, 100, 0)


def test_what_is_found_are_the_values_of_the_file():
    _, found = decode_with_findings(tiff(np.array([[-1024, 0, 10, 3071]], np.int16)), "L", value_range=(0, 100))
    assert (found.black_to_white, found.low, found.high) == ((0, 100), -1024, 3071)
    assert (found.num_values, found.num_clipped) == (4, 2)
    _, found = decode_with_findings(file_of(Image.new("RGB", (2, 3), (5, 100, 200))), value_range=(50, 150))
    assert (found.low, found.high, found.num_values, found.num_clipped) == (5, 200, 18, 12)
    for data, white in ((file_of(Image.new("L", (2, 2), 7)), 255), (tiff(TWELVE), 65535)):
        assert decode_with_findings(data)[1].black_to_white == (0, white)
