"""What holds for every set of shards, every batch and window size, and every number of processes."""

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from io import BytesIO
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ddpm_cars.data.stream import ShardStream
from tests.support.streaming_helpers import KINDS, draw, make_config, merged, rows_of, write_shard

properties = settings(max_examples=25, deadline=None)
kinds = st.sampled_from(KINDS)
some_shards = st.lists(st.integers(1, 12), min_size=1, max_size=5)
splits = st.sampled_from([(1, 1), (1, 12), (12, 1), (2, 3), (6, 2), (3, 4), (4, 3)])


def png(number: int) -> bytes:
    file = BytesIO()
    Image.new("RGB", (8, 8), (number % 100, number // 100, 0)).save(file, "PNG")
    return file.getvalue()


def write_shards(folder: Path, kind: str, sizes: list[int], bad: set[int]) -> Path:
    """Write shards in which image and class are a number: 100 times the shard, plus the row."""
    for shard, size in enumerate(sizes):
        numbers = [100 * shard + row for row in range(size)]
        write_shard(folder, kind, shard, [b"bad" if n in bad else png(n) for n in numbers], numbers)
    return folder


def draw_numbers(streams: Sequence[ShardStream], steps: range, num_micro_steps: int) -> list[list[int]]:
    """Return the numbers in some global batches, once pixels and classes agree on them."""
    batches = draw(streams, steps, num_micro_steps)
    for images, labels in batches:
        np.testing.assert_array_equal(images[..., 0, 0, 0] + 100 * images[..., 0, 0, 1].astype(int), labels)
    return [labels.tolist() for _, labels in batches]


def dealt(numbers: list[int], sizes: list[int], window: int) -> Iterator[int]:
    """Yield the shards that a lane has read, whose windows have to hold the rows that they should."""
    while numbers:
        shard = numbers[0] // 100
        for start in range(0, sizes[shard], window):
            rows = range(100 * shard + start, 100 * shard + min(start + window, sizes[shard]))
            if len(numbers) < len(rows):
                return
            assert sorted(numbers[: len(rows)]) == list(rows)
            numbers = numbers[len(rows) :]
        yield shard


@properties
@given(
    kind=kinds,
    sizes=some_shards,
    batch_size=st.integers(1, 12),
    window=st.integers(1, 14),
    seed=st.integers(0, 2**32),
)
def test_every_epoch_shows_every_picture_once(kind: str, sizes: list[int], batch_size: int, window: int, seed: int):
    num_lanes = min(len(sizes), batch_size)
    with tempfile.TemporaryDirectory() as folder:
        data = write_shards(Path(folder) / "data", kind, sizes, set())
        config = make_config(data, shuffle_window_images=window, seed=seed)
        with closing(ShardStream(config, 3, batch_size, [range(batch_size)])) as stream:
            assert stream.num_lanes == num_lanes
            batches = np.array(draw_numbers([stream], range(60), 1))
    owners = np.arange(batch_size) * num_lanes // batch_size
    lanes = [list(dealt(batches[:, owners == lane].ravel().tolist(), sizes, window)) for lane in range(num_lanes)]
    sequence = [shard for turn in zip(*lanes, strict=False) for shard in turn]
    for start in range(0, len(sequence) - len(sizes) + 1, len(sizes)):
        assert sorted(sequence[start : start + len(sizes)]) == list(range(len(sizes)))


@properties
@given(
    kind=kinds,
    sizes=some_shards,
    size=st.integers(1, 3),
    before=splits,
    after=splits,
    window=st.integers(1, 14),
    stop=st.integers(0, 5),
    bad=st.sets(st.integers(0, 4).flatmap(lambda s: st.integers(100 * s, 100 * s + 11)), max_size=8),
)
def test_neither_splits_nor_stops_nor_bad_pictures_change_the_batches(
    kind: str,
    sizes: list[int],
    size: int,
    before: tuple[int, int],
    after: tuple[int, int],
    window: int,
    stop: int,
    bad: set[int],
):
    # One image stays good in every shard.
    bad -= {100 * shard + num_rows - 1 for shard, num_rows in enumerate(sizes)}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        data = write_shards(Path(folder) / "data", kind, sizes, bad)
        config = make_config(data, shuffle_window_images=window, max_bad_images_fraction=0.9)

        def start(num_processes: int, num_micro_steps: int) -> list[ShardStream]:
            parts = [rows_of(p, num_processes, num_micro_steps, 12 * size) for p in range(num_processes)]
            return [stack.enter_context(closing(ShardStream(config, 3, 12 * size, rows))) for rows in parts]

        whole = draw_numbers(start(1, 1), range(stop + 3), 1)
        assert not bad & set(itertools.chain.from_iterable(whole))
        first, second = start(*before), start(*after)
        assert draw_numbers(first, range(stop), before[1]) == whole[:stop]
        for stream in second:
            stream.load_state_dict(merged(first, stop))
        assert draw_numbers(second, range(stop, stop + 3), after[1]) == whole[stop:]
