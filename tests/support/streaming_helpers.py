"""Three small shards, Parquet files or WebDataset archives, in which an image's class is its number."""

import functools
import json
import tarfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.data.stream import ShardStream
from ddpm_cars.toy_cars.painting import draw_car

SIZE = 8
KINDS = ["parquet", "webdataset"]
SHARDS = [list(range(7)), list(range(7, 12)), list(range(12, 22))]
NUM_IMAGES = 22


@functools.cache
def png(number: int) -> bytes:
    file = BytesIO()
    draw_car(number, SIZE).save(file, "PNG")
    return file.getvalue()


BAD = {3: b"no image", 8: None, 14: png(14)[:60], 15: b""}
"""What may lie in the place of an image."""


def pixels(numbers: Sequence[int]) -> np.ndarray:
    return np.stack([np.asarray(draw_car(number, SIZE)) for number in numbers])


def write_parquet(path: Path, images: list[bytes | None], labels: list) -> None:
    storage = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": image, "path": None} for image in images], storage)
    pq.write_table(pa.table({"image": rows, "label": labels}), path, row_group_size=3)


def write_tar(path: Path, images: list[bytes | None], labels: list) -> None:
    with tarfile.open(path, "w") as tar:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            # A name beyond 100 characters takes several headers.
            stem = f"{'deep/' * (30 if i % 3 == 1 else 0)}{i:04d}"
            for suffix, data in (("png", image), ("json", b"{}"), ("cls", f"{label}\n".encode())):
                if data is not None:
                    add_file(tar, f"{stem}.{suffix}", data)


def add_file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, BytesIO(data))


def write_shard(
    folder: Path, kind: str, shard: int, images: list[bytes | None], labels: list, split: str = "train"
) -> Path:
    folder.mkdir(exist_ok=True)
    write, suffix = {"parquet": (write_parquet, "parquet"), "webdataset": (write_tar, "tar")}[kind]
    path = folder / f"{split}-{shard:02d}.{suffix}"
    write(path, images, labels)
    return path


def declare_classes(path: Path, names: list[str]) -> None:
    """Turn the labels of a Parquet file into a ClassLabel."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    pq.write_table(pq.read_table(path).cast(features.arrow_schema), path)


def write_shards(
    folder: Path, kind: str, bad: Mapping[int, bytes | None] | None = None, labels: Mapping[int, object] | None = None
) -> Path:
    """Write all shards, with some images or labels replaced."""
    for shard, numbers in enumerate(SHARDS):
        images = [(bad or {}).get(n, png(n)) for n in numbers]
        write_shard(folder, kind, shard, images, [(labels or {}).get(n, n) for n in numbers])
    return folder


def make_config(folder: Path, **changes: object) -> TrainingConfig:
    settings = {
        "dataset_name": str(folder),
        "cache_dir": str(folder.parent / "cache"),
        "split": "train",
        "streaming": True,
        "max_train_steps": 1,
        "resolution": SIZE,
        "shuffle_window_images": 4,
        "class_conditional": True,
        "seed": 5,
    }
    return TrainingConfig(**{**settings, **changes})


def rows_of(process: int, num_processes: int, num_micro_steps: int, batch_size: int) -> list[range]:
    size = batch_size // (num_processes * num_micro_steps)
    starts = [(m * num_processes + process) * size for m in range(num_micro_steps)]
    return [range(start, start + size) for start in starts]


def draw(
    streams: Sequence[ShardStream], steps: range, num_micro_steps: int = 1
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw global batches, put together from the parts of all processes."""
    drawn = []
    for step in steps:
        parts = [stream.batch(step, m) for m in range(num_micro_steps) for stream in streams]
        drawn.append((np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])))
    return drawn


def merged(streams: Sequence[ShardStream], step: int) -> dict:
    """Return the states of all processes as a checkpoint holds them."""
    lanes = {name: place for stream in streams for name, place in stream.state_dict(step)["lanes"].items()}
    return json.loads(json.dumps({"lanes": lanes}))
