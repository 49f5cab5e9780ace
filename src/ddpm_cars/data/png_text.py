"""PNG files with more text, or a larger profile, than Pillow reads."""

import struct
import zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
# These say how an image is turned, and are kept where they are short enough for Pillow.
_OF_ORIENTATION = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
_MAX_KEPT_BYTES = 2**20  # The limit of Pillow.
_MAX_PROFILE_BYTES = 2**24


def without_text(data: bytes) -> tuple[bytes, bytes | None]:
    """Take text and the colour profile out of a PNG file, so that no amount of them keeps Pillow from its pixels.

    Text is not decompressed. Returns the same bytes if the file is no PNG, has neither, or ends in a chunk before
    them, and the decompressed profile: None if there is none, empty if it is damaged or has more than 16 MiB.
    """
    if not data.startswith(_SIGNATURE):
        return data, None
    kept, profile, at, of_orientation = [data[:8]], None, 8, list(_OF_ORIENTATION)
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        content = data[at + 8 : end - 4] if name in (*_TEXT, b"iCCP") else b""
        if name == b"iCCP":
            profile = _decompressed(content)
        elif name not in _TEXT:
            kept.append(data[at:end])
        elif length <= _MAX_KEPT_BYTES and (begins := next(filter(content.startswith, of_orientation), None)):
            # The first of each is enough: Pillow reads but so much text altogether.
            of_orientation.remove(begins)
            kept.append(data[at:end])
        at = end
    kept.append(data[at:])
    return b"".join(kept), profile


def _decompressed(content: bytes) -> bytes:
    """Return the profile in an iCCP chunk: a name, a zero, the method, which is 0, and data of zlib."""
    _, _, rest = content.partition(b"\0")
    reader = zlib.decompressobj()
    try:
        profile = reader.decompress(rest[1:], _MAX_PROFILE_BYTES)
    except zlib.error:
        return b""
    return profile if reader.eof and rest[:1] == b"\0" else b""
