"""Images are decoded once: the pass over their files, and what is kept of it on disk."""

import hashlib
import json
import os
import shutil
import sys
import uuid
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.data.decoding import PictureError, decode_image, resize_image
from ddpm_cars.data.listing import Source
from ddpm_cars.errors import UserError
from ddpm_cars.runtime.files import fsync_path
from ddpm_cars.runtime.hardware import num_cores

# Part of a cache's key: raise it whenever the pixels that decoding gives, or the files of a cache, change.
DECODER_VERSION = 2

# Pillow decodes and resizes outside the interpreter's lock, so threads use every core.
_NUM_THREADS = num_cores()

# Images per thread that are decoded ahead of the one to be written.
_AHEAD = 16

# How many images of a cache are compared with their files before it is believed.
_NUM_COMPARED = 16

# Gives the pixels of image i and the digest of its file, or says why it cannot be decoded.
Decode = Callable[[int], tuple[bytes, int] | str]


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a pass over a source gave.

    Attributes:
        images: A read-only memory map, uint8 (N, height, width, channels), of the N images that could be decoded.
        digests: uint64 (N,), of the bytes of their files.
        bad: Why the others could not, by their position in the source.
        sha256: Of the pixels and then the labels (int64, little-endian), in order.
    """

    images: np.ndarray
    digests: np.ndarray
    bad: dict[int, str]
    sha256: str


def good_rows(size: int, bad: dict[int, str]) -> np.ndarray:
    """Return the positions, int64, in a source of `size` images of those that are not bad."""
    return np.delete(np.arange(size), list(bad))


def make_report(source: Source, bad: dict[int, str], digests: np.ndarray) -> dict[str, Any]:
    """Say what became of every file of a source.

    Args:
        source: The images.
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
    """Decode every image of a source, or read what an earlier call kept.

    Args:
        source: The images.
        path: Folder of this source and these settings in the cache. It appears only when everything is in it, and is
            written anew where it is damaged, or no longer what the files give.
        config: Size, way of resizing and background.
        num_channels: 3 or 1.
        accept: Gets the bad images and the digests of the good ones. What it raises is raised, and after a pass
            nothing is kept then.

    Returns:
        The images and what belongs to them.

    Raises:
        UserError: If the cache cannot be written.
    """
    shape = (config.resolution, config.resolution, num_channels)
    decode = _decoder(source, config, num_channels)
    decoded = _read(path, source.size, shape)
    # The first process of a machine decides; the others take what it has kept, so that all have the same images.
    decides = os.environ.get("LOCAL_RANK", "0") == "0"
    if decoded is not None and not (decides and _is_outdated(decoded, source.size, decode)):
        accept(decoded.bad, decoded.digests)
        return decoded
    mebibytes = f"{source.size * np.prod(shape) / 2**20:,.0f} MiB"
    with _own_folder(path, mebibytes) as temporary:
        with _with_disk_cures(path.parent, mebibytes):
            bad, digests = _decode_all(source, temporary, shape, decode)
        accept(bad, digests)
        with _with_disk_cures(path.parent, mebibytes):
            decoded = _read(temporary, source.size, shape)
            if decoded is None:
                raise OSError(f"{temporary} cannot be read back")
            _publish(temporary, path, decoded, source.size, shape)
    # Of several processes with the same images, the first one speaks.
    if os.environ.get("RANK", "0") == "0":
        print(f"decoded images of {source.place} are kept in {path}, {mebibytes}", file=sys.stderr)
    return decoded


def _decoder(source: Source, config: ImageConfig, num_channels: int) -> Decode:
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

    return decode


def _is_outdated(decoded: Decoded, size: int, decode: Decode) -> bool:
    """Return whether an image that was bad can be decoded now, or one of a few others is of another file."""
    # Why an image was bad may have passed: a disk that failed, a limit of Pillow. And on a file system that keeps no
    # time of change, other files can have the same names, sizes and times.
    rows = good_rows(size, decoded.bad)
    compared = range(0, len(rows), max(1, len(rows) // _NUM_COMPARED))
    expected = {**dict.fromkeys(decoded.bad), **{int(rows[k]): int(decoded.digests[k]) for k in compared}}
    with _in_order(decode, list(expected)) as results:
        pairs = zip(results, expected.values(), strict=True)
        # What cannot be read today has not changed for that.
        return any(not isinstance(result, str) and result[1] != digest for result, digest in pairs)


@contextmanager
def _with_disk_cures(cache: Path, mebibytes: str) -> Iterator[None]:
    """Turn what a disk refuses into an error that names the cache and the cure."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the decoded images, {mebibytes}, cannot be kept in {cache} ({error.strerror or error}); make room or "
            "mend that, or choose another cache_dir"
        ) from error


@contextmanager
def _own_folder(path: Path, mebibytes: str) -> Iterator[Path]:
    """Yield a new folder beside `path`, gone in the end, after deleting those of passes that were killed."""
    # No two processes, on one machine or several, write to one place.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    with _with_disk_cures(path.parent, mebibytes):
        path.parent.mkdir(parents=True, exist_ok=True)
        _delete_leftovers(path.parent)
    # The folder appears after its lock, so that nobody takes it for a leftover.
    with _try_lock(temporary):
        try:
            with _with_disk_cures(path.parent, mebibytes):
                temporary.mkdir()
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _delete_leftovers(cache: Path) -> None:
    """Delete the temporary folders whose process has ended: the operating system opens its lock, however it ends."""
    for folder in cache.glob("*.tmp"):
        with _try_lock(folder) as locked:
            if locked:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _try_lock(folder: Path) -> Iterator[bool]:
    """Hold the lock of a temporary folder, and say whether that worked."""
    path = folder.with_name(f"{folder.name}.lock")
    lock = FileLock(path, blocking=False)
    # On a file system without locks nobody gets any, and nothing is deleted; nor is what another person has locked.
    with suppress(Timeout, NotImplementedError, OSError):
        lock.acquire()
    held = lock.is_locked
    try:
        yield held
    finally:
        lock.release()
        if held:
            path.unlink(missing_ok=True)


def _decode_all(
    source: Source, folder: Path, shape: tuple[int, ...], decode: Decode
) -> tuple[dict[int, str], np.ndarray]:
    """Write images.npy, digests.npy and record.json; return the bad images and the digests of the others."""
    bad: dict[int, str] = {}
    digests: list[int] = []
    checksum = hashlib.sha256()
    with (folder / "images.npy").open("wb") as file, _in_order(decode, range(source.size)) as results:
        start = _write_header(file, (source.size, *shape))
        for i, result in enumerate(tqdm(results, "decoding", source.size, unit="image")):
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


@contextmanager
def _in_order(decode: Decode, positions: Sequence[int]) -> Iterator[Iterator[tuple[bytes, int] | str]]:
    """Give the results for some positions in turn, with only a few decoded ahead: memory holds, stopping is quick."""

    def results(pool: ThreadPoolExecutor) -> Iterator[tuple[bytes, int] | str]:
        waiting: deque[Future] = deque()
        for i in positions:
            waiting.append(pool.submit(decode, i))
            if len(waiting) == _NUM_THREADS * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    # Filters of warnings are shared by all threads, so they are changed once around all of them. What Pillow warns of,
    # such as damaged EXIF, leaves the pixels as they are.
    with warnings.catch_warnings(), ThreadPoolExecutor(_NUM_THREADS) as pool:
        warnings.simplefilter("ignore")
        yield results(pool)


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


def _publish(temporary: Path, path: Path, decoded: Decoded, size: int, shape: tuple[int, ...]) -> None:
    """Rename a complete folder to its place, whatever damaged or outdated one is there."""
    for file in (*temporary.iterdir(), temporary):
        fsync_path(file)
    if not _are_same(_read(path, size, shape), decoded):
        shutil.rmtree(path, ignore_errors=True)
    try:
        os.rename(temporary, path)
    except OSError:
        # Another process may have finished first, with the same pixels.
        if not _are_same(_read(path, size, shape), decoded):
            raise
    fsync_path(path.parent)


def _are_same(found: Decoded | None, decoded: Decoded) -> bool:
    if found is None or (found.sha256, found.bad) != (decoded.sha256, decoded.bad):
        return False
    return np.array_equal(found.digests, decoded.digests)
