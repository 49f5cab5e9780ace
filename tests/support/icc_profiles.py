"""Colour profiles byte by byte (ICC.1:2001-04), so that what they mean is known without a library of colours."""

import struct
from collections.abc import Sequence

# The primaries of Adobe RGB (1998) as columns of XYZ, adapted to D50; its curve is a power of 563 / 256.
ADOBE = ((0.60974, 0.20528, 0.14919), (0.31111, 0.62567, 0.06322), (0.01947, 0.06087, 0.74457))
ADOBE_GAMMA = 563 / 256
D50 = (0.9642, 1.0, 0.8249)


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*values)


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    at, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content
    header = struct.pack(">I4sI4s4s4s", at + len(body), b"test", 0x02400000, kind, space, connection)
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(*D50)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _described(tags: dict[bytes, bytes]) -> dict[bytes, bytes]:
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78)
    return {b"desc": text, b"cprt": b"text\0\0\0\0none\0", b"wtpt": _xyz(D50), **tags}


def matrix_profile(columns: Sequence[Sequence[float]] = ADOBE, gamma: float = ADOBE_GAMMA, padding: int = 0) -> bytes:
    """Return a profile of RGB: XYZ in D50 is the matrix times the gamma-th power of the values, of 1 for 255."""
    tags = {name + b"XYZ": _xyz([row[i] for row in columns]) for i, name in enumerate((b"r", b"g", b"b"))}
    tags |= {name + b"TRC": _curve(gamma) for name in (b"r", b"g", b"b")}
    tags |= {b"pad ": b"data\0\0\0\0" + bytes(padding)} if padding else {}
    return _profile(b"mntr", b"RGB ", b"XYZ ", _described(tags))


def grey_profile(gamma: float) -> bytes:
    """Return a profile of grey: the luminance is the gamma-th power of the value."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", _described({b"kTRC": _curve(gamma)}))


def cmyk_profile(lab: dict[tuple[int, int, int, int], tuple[float, float, float]]) -> bytes:
    """Return a profile of four inks: the CIELab colours of full and missing ones, for every combination of 0 and 1."""
    nodes = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    colours = [lab[node] for node in nodes]
    grid = bytes(round(v) for lightness, a, b in colours for v in (lightness * 2.55, a + 128, b + 128))
    straight = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return _profile(b"prtr", b"CMYK", b"Lab ", _described({b"A2B0": table + straight * 4 + grid + straight * 3}))
