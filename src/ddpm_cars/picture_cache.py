"""Pictures are decoded once: the pass over their files, and what is kept of it on disk."""

import hashlib
import json
import os
import shutil
import uuid
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from ddpm_cars.checkpoints import fsync_path
from ddpm_cars.config import ImageConfig
from ddpm_cars.hardware import num_cores
from ddpm_cars.images import PictureError, decode_image, resize_image

# Part of a cache's key: raise it whenever the pixels that decoding gives, or the files of a cache, change.
DECODER_VERSION = 2

# Pillow decodes and resizes outside the interpreter's lock, so threads use every core.
_NUM_THREADS = num_cores()
# Pictures per thread that are decoded ahead of the one to be written.
_AHEAD = 16


@dataclass(frozen=True, eq=False)
class Source:
    """Pictures that are found but not decoded.

    Attributes:
        place: The folder or dataset, for messages.
        size: How many.
        read: Gives the bytes of picture i; raises OSError or PictureError.
        path: Gives what a person finds picture i by.
        fingerprint: A different one where anything about the files is different.
        labels: int64 (size,), or None without classes.
        class_names: The classes that the labels count through.
        not_listed: Files that look like pictures but are not among them.
        ignored_suffixes: How many other files there are, by suffix.
    """

    place: str
    size: int
    read: Callable[[int], bytes]
    path: Callable[[int], str]
    fingerprint: str
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    not_listed: list[str]
    ignored_suffixes: dict[str, int]


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a pass over a source gave.

    Attributes:
        images: A read-only memory map, uint8 (N, height, width, channels), of the N pictures that could be decoded.
        digests: uint64 (N,), of the bytes of their files.
        bad: Why the others could not, by their position in the source.
        sha256: Of the pixels and then the labels (int64, little-endian), in order.
    """

    images: np.ndarray
    digests: np.ndarray
    bad: dict[int, str]
    sha256: str


def good_rows(size: int, bad: dict[int, str]) -> np.ndarray:
    """Return the positions, int64, in a source of `size` pictures of those that are not bad."""
    return np.delete(np.arange(size), list(bad))


def make_report(source: Source, bad: dict[int, str], digests: np.ndarray) -> dict[str, Any]:
    """Say what became of every file of a source.

    Args:
        source: The pictures.
        bad: Why some could not be decoded, by position.
        digests: uint64, of the files of the others, in order; files of the same digest are copies.

    Returns:
        What JSON can hold.
    """
    _, inverse, counts = np.unique(digests, return_inverse=True, return_counts=True)
    rows = good_rows(source.size, bad)
    copies: dict[int, list[str]] = defaultdict(list)
    for i in np.flatnonzero(counts[inverse] > 1):
        copies[int(digests[i])].append(source.path(int(rows[i])))
    return {
        "source": source.place,
        "num_images": len(rows),
        "num_listed": source.size,
        "bad_images": [{"path": source.path(i), "reason": reason} for i, reason in bad.items()],
        "duplicates": list(copies.values()),
        "not_listed": source.not_listed,
        "ignored_suffixes": source.ignored_suffixes,
    }


def decode_once(
    source: Source,
    path: Path,
    config: ImageConfig,
    num_channels: int,
    accept: Callable[[dict[int, str], np.ndarray], None],
) -> Decoded:
    """Decode every picture of a source, or read what an earlier call kept.

    Args:
        source: The pictures.
        path: Folder of this source and these settings in the cache. It appears only when everything is in it, and is
            written anew where it is damaged.
        config: Size, way of resizing and background.
        num_channels: 3 or 1.
        accept: Gets the bad pictures and the digests of the good ones. What it raises is raised, and after a pass
            nothing is kept then.

    Returns:
        The pictures and what belongs to them.
    """
    shape = (config.resolution, config.resolution, num_channels)
    decoded = _read(path, source.size, shape)
    if decoded is not None:
        accept(decoded.bad, decoded.digests)
        return decoded
    # No two processes, on one machine or several, write to one place.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir(parents=True)
    try:
        accept(*_decode_all(source, temporary, config, num_channels))
        decoded = _read(temporary, source.size, shape)
        if decoded is None:
            raise OSError(f"{temporary} cannot be read back")
        _publish(temporary, path, source.size, shape)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return decoded


def _decode_all(
    source: Source, folder: Path, config: ImageConfig, num_channels: int
) -> tuple[dict[int, str], np.ndarray]:
    """Write images.npy, digests.npy and record.json; return the bad pictures and the digests of the others."""
    shape = (config.resolution, config.resolution, num_channels)
    mode = "RGB" if num_channels == 3 else "L"

    def decode(i: int) -> tuple[bytes, int] | str:
        try:
            data = source.read(i)
            image = decode_image(data, mode, config.background)
        except PictureError as error:
            return str(error)
        except OSError as error:
            return error.strerror or str(error)
        square = resize_image(image, config.resolution, config.resize, config.background)
        return square.tobytes(), int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")

    bad: dict[int, str] = {}
    digests: list[int] = []
    checksum = hashlib.sha256()
    # Filters of warnings are shared by all threads, so they are changed once around all of them. What Pillow warns of,
    # such as damaged EXIF, leaves the pixels as they are.
    with (
        (folder / "images.npy").open("wb") as file,
        warnings.catch_warnings(),
        ThreadPoolExecutor(_NUM_THREADS) as pool,
    ):
        warnings.simplefilter("ignore")
        start = _write_header(file, (source.size, *shape))
        for i, result in enumerate(tqdm(_in_order(pool, decode, source.size), "decoding", source.size, unit="image")):
            if isinstance(result, str):
                bad[i] = result
                continue
            file.write(result[0])
            checksum.update(result[0])
            digests.append(result[1])
        file.seek(0)
        if _write_header(file, (len(digests), *shape)) != start:
            raise OSError(f"{file.name}: numpy wrote headers of two lengths")
    as_array = np.array(digests, dtype=np.uint64)
    np.save(folder / "digests.npy", as_array)
    if source.labels is not None:
        checksum.update(source.labels[good_rows(source.size, bad)].astype("<i8").tobytes())
    record = {"bad": list(bad.items()), "sha256": checksum.hexdigest()}
    (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
    return bad, as_array


def _in_order(pool: ThreadPoolExecutor, decode: Callable[[int], Any], size: int) -> Iterator[Any]:
    """Yield the results for 0 to size - 1, with only a few decoded ahead: memory holds, and stopping is quick."""
    waiting: deque[Future] = deque()
    for i in range(size):
        waiting.append(pool.submit(decode, i))
        if len(waiting) == _NUM_THREADS * _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> int:
    """Write the header of a .npy file of uint8 and return its length."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()


def _read(folder: Path, size: int, shape: tuple[int, ...]) -> Decoded | None:
    """Return what a folder of the cache holds, None if anything is missing or damaged."""
    try:
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        bad = {int(i): str(reason) for i, reason in record["bad"]}
        sha256 = str(record["sha256"])
        images = np.load(folder / "images.npy", mmap_mode="r")
        digests = np.load(folder / "digests.npy")
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    num_images = size - len(bad)
    as_written = all(0 <= i < size for i in bad) and images.dtype == np.uint8 and images.shape == (num_images, *shape)
    if not as_written or digests.dtype != np.uint64 or digests.shape != (num_images,):
        return None
    return Decoded(images, digests, bad, sha256)


def _publish(temporary: Path, path: Path, size: int, shape: tuple[int, ...]) -> None:
    """Rename a complete folder to its place, whatever damaged one is there."""
    for file in (*temporary.iterdir(), temporary):
        fsync_path(file)
    if _read(path, size, shape) is None:
        shutil.rmtree(path, ignore_errors=True)
    try:
        os.rename(temporary, path)
    except OSError:
        # Another process may have finished first, with the same pixels.
        if _read(path, size, shape) is None:
            raise
    fsync_path(path.parent)
