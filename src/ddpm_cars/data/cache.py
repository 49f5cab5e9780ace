"""Decoded images on disk: an image is decoded once, whatever the number of runs and processes that read it."""

import hashlib
import json
import shutil
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import numpy as np

from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.data.decoding import decode_square, image_mode
from ddpm_cars.data.findings import Findings, Found, ImageError, ValuesError
from ddpm_cars.data.source import Source
from ddpm_cars.errors import UserError
from ddpm_cars.runtime.console import note, progress
from ddpm_cars.runtime.files import atomic_path
from ddpm_cars.runtime.folders import alone_in
from ddpm_cars.runtime.launcher import local_rank
from ddpm_cars.runtime.threads import num_cores

# This is part of the key of a cache. Raise it when the pixels that decoding gives, or the files of a cache, change.
DECODER_VERSION = 4
_IMAGES, _DIGESTS, _RECORD = "images.npy", "digests.npy", "record.json"
# Pillow decodes and resizes outside the interpreter's lock, so threads use every core.
_NUM_THREADS = num_cores()
_AHEAD = 16  # This is how many images per thread are decoded ahead of the one to be written.
_NUM_COMPARED = 16  # This is how many images of a cache are compared with their files before it is believed.

# Returns the pixels of image i, the digest of its file and what was found in it, or why it cannot be decoded.
Decode = Callable[[int], tuple[bytes, int, Found] | Exception]


@dataclass(frozen=True, eq=False)
class Decoded:
    """The result of decoding every image of a source, of which N can be decoded."""

    images: np.ndarray  # A read-only memory map, uint8 (N, height, width, channels).
    digests: np.ndarray  # uint64 (N,), of the bytes of their files.
    bad: dict[int, str]  # The reasons why the others could not be decoded, by their positions in the source.
    findings: dict[str, Any]  # See `Findings.summary`; images have their positions in the source.
    sha256: str  # Of the pixels and then the labels (int64, little-endian), in order.

    def good_rows(self) -> np.ndarray:
        """Return the positions in the source of the images that could be decoded, int64 (N,)."""
        return np.delete(np.arange(len(self.images) + len(self.bad)), list(self.bad))


def cache_folder(cache_dir: str | None) -> Path:
    """Return the folder of this package in a cache, None for the cache of `datasets`."""
    return Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "ddpm_cars"


def decode_once(source: Source, path: Path, config: ImageConfig, num_channels: int) -> Decoded:
    """Decode every image of a source into a folder of the cache, or read what an earlier call has kept there.

    The folder is complete or absent, and is replaced if it is damaged or no longer what the files give. One process at
    a time decodes into a cache: it uses every core. Raises UserError if the cache cannot be written.
    """
    shape = (config.resolution, config.resolution, num_channels)
    decode = _decoder(source, config, image_mode(num_channels))
    # The first process of a machine checks the files. The others take what it has kept, so that all have the same.
    checks = local_rank() == 0

    def kept() -> Decoded | None:
        found = _read(path, source.size, shape)
        return None if found is not None and checks and _is_outdated(found, decode) else found

    if (decoded := kept()) is not None:
        return decoded
    mebibytes = f"{source.size * np.prod(shape) / 2**20:,.0f} MiB"
    try:
        with alone_in(path.parent):
            # Another process may have decoded them meanwhile.
            if (decoded := kept()) is not None:
                return decoded
            # Folders are of decoding passes that were killed, and files of others, who write without the lock.
            for leftover in (*path.parent.glob("*.tmp"), *path.parent.glob("*.old")):
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)
            with atomic_path(path) as temporary:
                temporary.mkdir()
                _decode_all(source, temporary, shape, decode)
            decoded = _read(path, source.size, shape)
        if decoded is None:
            raise OSError(f"{path} cannot be read back")
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error or "it cannot be locked"
        raise UserError(
            f"the decoded images, {mebibytes}, cannot be kept in {path.parent} ({reason}); make room or mend that, or "
            "choose another cache_dir"
        ) from error
    note(f"decoded images of {source.place} are kept in {path}, {mebibytes}")
    return decoded


def _decoder(source: Source, config: ImageConfig, mode: str) -> Decode:
    def decode(i: int) -> tuple[bytes, int, Found] | Exception:
        try:
            data = source.read(i)
            image, found = decode_square(data, mode, config)
        except (ImageError, OSError) as error:
            # With its traceback it would keep the image.
            return error.with_traceback(None)
        return image.tobytes(), int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little"), found

    return decode


def _is_outdated(decoded: Decoded, decode: Decode) -> bool:
    """Return whether an image that was bad can be decoded now, or one of a few others is of another file."""
    # The reason why an image was bad may have passed: a disk that failed, a limit of Pillow. And on a file system
    # that keeps no time of change, other files can have the same names, sizes and times.
    rows = decoded.good_rows()
    compared = range(0, len(rows), max(1, len(rows) // _NUM_COMPARED))
    expected = {**dict.fromkeys(decoded.bad), **{int(rows[k]): int(decoded.digests[k]) for k in compared}}
    with _in_order(decode, list(expected)) as results:
        pairs = zip(results, expected.values(), strict=True)
        # A file that cannot be read today is not a changed file.
        return any(not isinstance(result, Exception) and result[1] != digest for result, digest in pairs)


def _decode_all(source: Source, folder: Path, shape: tuple[int, ...], decode: Decode) -> None:
    """Decode every image and write the three files of a cache."""
    bad: dict[int, str] = {}
    digests: list[int] = []
    findings = Findings()
    checksum = hashlib.sha256()
    with (folder / _IMAGES).open("wb") as file, _in_order(decode, range(source.size)) as results:
        start = _write_header(file, (source.size, *shape))
        for i, result in enumerate(progress(results, desc="decoding", total=source.size, unit="image")):
            if isinstance(result, Exception):
                bad[i] = str(getattr(result, "strerror", None) or result)
                if isinstance(result, ValuesError):
                    findings.add_unknown(result)
                continue
            file.write(result[0])
            checksum.update(result[0])
            digests.append(result[1])
            findings.add(i, result[2])
        file.seek(0)
        if _write_header(file, (len(digests), *shape)) != start:
            raise OSError(f"{file.name}: numpy wrote headers of two lengths")
    np.save(folder / _DIGESTS, np.array(digests, dtype=np.uint64))
    if source.labels is not None:
        checksum.update(np.delete(source.labels, list(bad)).astype("<i8").tobytes())
    record = {"bad": list(bad.items()), "findings": findings.summary(), "sha256": checksum.hexdigest()}
    (folder / _RECORD).write_text(json.dumps(record), encoding="utf-8")


@contextmanager
def _in_order(decode: Decode, positions: Sequence[int]) -> Iterator[Iterator[tuple[bytes, int, Found] | Exception]]:
    """Yield the results for some positions in turn. Few are decoded ahead, for little memory and quick stops."""

    def results(pool: ThreadPoolExecutor) -> Iterator[tuple[bytes, int, Found] | Exception]:
        waiting: deque[Future] = deque()
        for i in positions:
            waiting.append(pool.submit(decode, i))
            if len(waiting) == _NUM_THREADS * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    # Filters of warnings are shared by all threads, so they are changed once around all of them. Pillow warns of
    # things, such as damaged EXIF, that leave the pixels as they are.
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
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        bad = {int(i): str(reason) for i, reason in record["bad"]}
        findings, sha256 = dict(record["findings"]), str(record["sha256"])
        images = np.load(folder / _IMAGES, mmap_mode="r")
        digests = np.load(folder / _DIGESTS)
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    num_images = size - len(bad)
    as_written = all(0 <= i < size for i in bad) and images.dtype == np.uint8 and images.shape == (num_images, *shape)
    if not as_written or digests.dtype != np.uint64 or digests.shape != (num_images,):
        return None
    return Decoded(images, digests, bad, findings, sha256)
