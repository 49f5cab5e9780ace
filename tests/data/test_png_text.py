"""PNG files that Pillow refuses for their text or their profile are decoded, and what stays bounded."""

import struct
import tracemalloc
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ddpm_cars.data.decoding import decode_image, decode_with_findings
from ddpm_cars.data.findings import ImageError
from ddpm_cars.data.png_text import without_text
from tests.support.icc_profiles import matrix_profile

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
MUCH = 2**20 + 1
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(*before: bytes, behind: bytes = b"", **options: object) -> bytes:
    """Return a PNG with chunks before and behind its pixels."""
    buffer = BytesIO()
    Image.fromarray(PIXELS).save(buffer, "png", **options)
    whole = buffer.getvalue()
    return whole[:33] + b"".join(before) + whole[33:-12] + behind + whole[-12:]


def compressed(num_bytes: int) -> bytes:
    return zlib.compress(b"a" * num_bytes)


ZTXT = chunk(b"zTXt", b"comment\0\0" + compressed(MUCH))
ITXT = chunk(b"iTXt", b"comment\0\1\0en\0\0" + compressed(MUCH))


def refused_by_pillow(data: bytes) -> bool:
    try:
        with Image.open(BytesIO(data)) as image:
            image.load()
    except ValueError:
        return True
    return False


@pytest.mark.parametrize(
    "data",
    [
        png(ZTXT),
        png(ITXT),
        png(behind=ZTXT),
        png(*[chunk(b"tEXt", b"comment\0" + bytes([97]) * MUCH)] * 65),
        png(*[chunk(b"zTXt", b"comment\0\0" + compressed(2**20))] * 65),
        png(*[chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + bytes(2**20 - 100))] * 65),
    ],
    ids="zTXt iTXt behind many many-compressed many-xmp".split(),
)
def test_text_keeps_nobody_from_the_pixels(data: bytes):
    assert refused_by_pillow(data)
    np.testing.assert_array_equal(np.asarray(decode_image(data)), PIXELS)
    # No setting of the process has changed.
    assert (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY) == (2**20, 2**26)


def test_a_large_profile_counts():
    small, large = matrix_profile(), matrix_profile(padding=MUCH)
    data = png(icc_profile=large)
    assert refused_by_pillow(data)
    image, found = decode_with_findings(data)
    assert found.is_converted
    np.testing.assert_array_equal(np.asarray(image), np.asarray(decode_image(png(icc_profile=small))))
    # Also where text is what is too much.
    beside = decode_image(png(ZTXT, icc_profile=small))
    np.testing.assert_array_equal(np.asarray(image), np.asarray(beside))


def test_a_profile_without_end_is_left_out():
    bomb = png(chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(2**27), 1)))
    tracemalloc.start()
    image, found = decode_with_findings(bomb)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()
    np.testing.assert_array_equal(np.asarray(image), PIXELS)
    assert found.profile_fault == "it is damaged"


@pytest.mark.parametrize("long", [b"", ZTXT], ids=["alone", "beside much text"])
@pytest.mark.parametrize(
    "text",
    [
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
    ],
    ids="xmp compressed exif".split(),
)
def test_an_image_is_upright_also_beside_much_text(text: bytes, long: bytes):
    np.testing.assert_array_equal(np.asarray(decode_image(png(long, text))), np.rot90(PIXELS, -1))


def test_a_file_that_ends_early_is_still_refused():
    data = png(ZTXT)
    for end in (100, data.index(b"IDAT"), data.index(b"IDAT") + 30):
        with pytest.raises(ImageError):
            decode_image(data[:end])


def test_other_bytes_stay_as_they_are():
    jpeg = BytesIO()
    Image.fromarray(PIXELS).save(jpeg, "jpeg")
    for data in (jpeg.getvalue(), png(), b"", b"\x89PNG\r\n\x1a\n", png()[:40], b"\x89PNG\r\n\x1a\n" + b"\xff" * 50):
        assert without_text(data) == (data, None)
