"""Batches out of shards: which rows they hold, where they go on, and what happens to what is bad."""

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ddpm_cars.data.stream import ShardStream
from ddpm_cars.errors import UserError
from ddpm_cars.toy_cars.painting import draw_car
from tests.support.streaming_helpers import (
    BAD,
    KINDS,
    NUM_IMAGES,
    SHARDS,
    SIZE,
    draw,
    make_config,
    merged,
    pixels,
    png,
    rows_of,
    write_shard,
    write_shards,
)

Open = Callable[..., ShardStream]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(tmp_path: Path, kind: str) -> Path:
    return write_shards(tmp_path / "data", kind)


@pytest.fixture
def open_stream() -> Iterator[Open]:
    """Open streams of one process or, given `rows`, of part of a batch; all are closed in the end."""
    streams = []

    def open_stream(
        folder: Path, batch_size: int = 6, rows: list | None = None, num_channels: int = 3, **changes: object
    ) -> ShardStream:
        config = make_config(folder, **changes)
        streams.append(ShardStream(config, num_channels, batch_size, rows or [range(batch_size)]))
        return streams[-1]

    yield open_stream
    for stream in streams:
        stream.close()


def assert_same(one: list, other: list) -> None:
    assert len(one) == len(other)
    for (images, labels), (other_images, other_labels) in zip(one, other, strict=True):
        np.testing.assert_array_equal(labels, other_labels)
        np.testing.assert_array_equal(images, other_images)


def shards_of_lane(labels: list[int], window: int) -> list[int]:
    """Take a lane's rows apart into shards, each window of which has to hold the rows that it should."""
    shards = []
    while labels:
        shard = next(i for i, numbers in enumerate(SHARDS) if labels[0] in numbers)
        for start in range(0, len(SHARDS[shard]), window):
            rows = SHARDS[shard][start : start + window]
            part, labels = labels[: len(rows)], labels[len(rows) :]
            if len(part) < len(rows):
                return shards
            assert sorted(part) == rows
        shards.append(shard)
    return shards


@pytest.mark.parametrize("window", [1, 4, 100])
def test_windows_are_shuffled_and_every_epoch_deals_every_shard_once(open_stream: Open, folder: Path, window: int):
    stream = open_stream(folder, shuffle_window_images=window)
    assert stream.num_lanes == 3
    labels = np.stack([labels for _, labels in draw([stream], range(70))])
    lanes = [labels[:, 2 * lane : 2 * lane + 2].ravel().tolist() for lane in range(3)]
    dealt = [shards_of_lane(lane, window) for lane in lanes]
    assert min(map(len, dealt)) > 10
    epochs = list(zip(*dealt, strict=False))
    assert all(sorted(epoch) == [0, 1, 2] for epoch in epochs)
    assert len(set(epochs)) > 2
    firsts = {tuple(lane[: len(SHARDS[shards[0]])]) for lane, shards in zip(lanes, dealt, strict=True)}
    assert (firsts <= {tuple(numbers) for numbers in SHARDS}) == (window == 1)
    other = open_stream(folder, shuffle_window_images=window, seed=6)
    assert any((a[1] != b).any() for a, b in zip(draw([other], range(8)), labels, strict=False))


def test_every_window_has_an_order_of_its_own_and_another_one_in_the_next_epoch(open_stream: Open, tmp_path: Path):
    write_shard(tmp_path / "one", "parquet", 0, [png(n) for n in range(12)], list(range(12)))
    stream = open_stream(tmp_path / "one", 6, shuffle_window_images=6)
    orders = [tuple(labels % 6) for _, labels in draw([stream], range(8))]
    assert len(set(orders)) == 8
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(6))}


def test_the_last_shards_of_an_epoch_are_dealt_on(open_stream: Open, folder: Path):
    stream = open_stream(folder, batch_size=2)
    assert stream.num_lanes == 2
    labels = np.stack([labels for _, labels in draw([stream], range(150))])
    dealt = [shards_of_lane(labels[:, lane].tolist(), 4) for lane in range(2)]
    sequence = [shard for pair in zip(*dealt, strict=False) for shard in pair]
    assert len(sequence) > 30
    assert all(sorted(sequence[i : i + 3]) == [0, 1, 2] for i in range(0, len(sequence) - 2, 3))


@pytest.mark.parametrize(
    ("num_shards", "batch_size", "sizes"),
    [(3, 2, [1, 1]), (3, 64, [22, 21, 21]), (20, 8, [1] * 8), (20, 97, [7] + [6] * 15), (40, 512, [16] * 32)],
)
def test_lanes_are_as_many_as_mix_well(
    open_stream: Open, tmp_path: Path, num_shards: int, batch_size: int, sizes: list[int]
):
    for shard in range(num_shards):
        write_shard(tmp_path / "many", "parquet", shard, [png(shard)] * 22, [shard] * 22)
    stream = open_stream(tmp_path / "many", batch_size)
    assert stream.num_lanes == len(sizes)
    assert stream.shards == [f"train-{shard:02d}.parquet" for shard in range(num_shards)]
    # The rows of a lane lie side by side.
    assert [len(list(rows)) for _, rows in itertools.groupby(stream.batch(0, 0)[1])] == sizes


@pytest.mark.parametrize("num_channels", [1, 3])
def test_pictures_and_classes_belong_together(open_stream: Open, folder: Path, num_channels: int):
    mode = {1: "L", 3: "RGB"}[num_channels]
    for images, labels in draw([open_stream(folder, num_channels=num_channels)], range(4)):
        assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
        expected = [np.asarray(draw_car(number, SIZE).convert(mode)) for number in labels]
        np.testing.assert_array_equal(images, np.stack(expected).reshape(6, SIZE, SIZE, num_channels))


def test_without_classes_there_are_no_labels(open_stream: Open, folder: Path):
    stream = open_stream(folder, class_conditional=False)
    images, labels = stream.batch(0, 0)
    assert labels is None
    assert stream.class_names == ()
    np.testing.assert_array_equal(images, open_stream(folder).batch(0, 0)[0])


SPLITS = [(1, 1), (1, 4), (2, 1), (2, 3), (4, 1), (4, 3), (12, 1)]


@pytest.mark.parametrize(("num_processes", "num_micro_steps"), SPLITS)
def test_the_global_batch_is_the_same_however_it_is_split(
    open_stream: Open, folder: Path, num_processes: int, num_micro_steps: int
):
    whole = draw([open_stream(folder, 12)], range(9))
    parts = [rows_of(p, num_processes, num_micro_steps, 12) for p in range(num_processes)]
    streams = [open_stream(folder, 12, rows) for rows in parts]
    assert_same(draw(streams, range(9), num_micro_steps), whole)


@pytest.mark.parametrize("batch_size", [2, 5, 12])
def test_a_run_goes_on_from_every_step_as_if_it_had_not_stopped(open_stream: Open, folder: Path, batch_size: int):
    straight, states, drawn, num_steps = open_stream(folder, batch_size), [], [], 60 // batch_size
    for step in range(num_steps):
        states.append(merged([straight], step))
        drawn += draw([straight], range(step, step + 1))
    resumed = open_stream(folder, batch_size)
    for step, state in enumerate(states):
        resumed.load_state_dict(state)
        assert merged([resumed], step) == state
        assert_same(draw([resumed], range(step, num_steps)), drawn[step:])
        # Where a run stands is a function of the step, not of where it began.
        assert merged([resumed], num_steps) == merged([straight], num_steps)
    assert len({tuple(state["lanes"]["0"].values()) for state in states}) == num_steps


@pytest.mark.parametrize(
    ("before", "after"), [((1, 1), (4, 1)), ((4, 1), (2, 3)), ((2, 1), (1, 1)), ((12, 1), (3, 2))]
)
def test_a_run_goes_on_with_another_number_of_processes(open_stream: Open, folder: Path, before: tuple, after: tuple):
    def processes(num_processes: int, num_micro_steps: int) -> list[ShardStream]:
        return [open_stream(folder, 12, rows_of(p, num_processes, num_micro_steps, 12)) for p in range(num_processes)]

    whole = draw([open_stream(folder, 12)], range(8))
    old = processes(*before)
    assert_same(draw(old, range(3), before[1]), whole[:3])
    new = processes(*after)
    for stream in new:
        stream.load_state_dict(merged(old, 3))
    assert_same(draw(new, range(3, 8), after[1]), whole[3:])


def test_the_state_counts_what_was_drawn_and_not_what_was_read_ahead(open_stream: Open, folder: Path):
    stream = open_stream(folder, 3)
    draws = np.stack([labels for _, labels in draw([stream], range(11))])
    for lane, place in stream.state_dict(11)["lanes"].items():
        numbers = [next(i for i, shard in enumerate(SHARDS) if n in shard) for n in draws[:, int(lane)]]
        finished = [len(SHARDS[shard]) for shard, _ in itertools.groupby(numbers)][: place["turn"]]
        assert sum(finished) + place["row"] + place["offset"] == 11


def test_going_on_reads_nothing_of_what_lies_before_the_window(open_stream: Open, tmp_path: Path, kind: str):
    shard = write_shard(tmp_path / "one", kind, 0, [png(n) for n in range(22)], list(range(22)))
    straight = open_stream(tmp_path / "one", 2)
    draw([straight], range(7))
    state = merged([straight], 7)
    assert (state["lanes"]["0"]["row"], state["lanes"]["0"]["offset"]) == (12, 2)
    expected = draw([straight], range(7, 11))
    opened = open_stream(tmp_path / "one", 2)
    content = bytearray(shard.read_bytes())
    if kind == "parquet":
        begin, end = 4, pq.ParquetFile(shard).metadata.row_group(4).column(0).dictionary_page_offset
    else:
        begin, end = 0, state["lanes"]["0"]["seek"]
    assert end > begin + 1000
    content[begin:end] = bytes(end - begin)
    shard.write_bytes(content)
    opened.load_state_dict(state)
    assert_same(draw([opened], range(7, 9)), expected[:2])
    opened.load_state_dict({"lanes": {"0": {"step": 0, "turn": 0, "row": 0, "seek": 0, "offset": 0}}})
    with pytest.raises(UserError, match=r"train-00.* cannot be read"):
        opened.batch(0, 0)


def test_batches_are_drawn_in_order(open_stream: Open, folder: Path):
    stream = open_stream(folder, 6, [range(2), range(2, 4)])
    for wrong in ((1, 0), (0, 1)):
        with pytest.raises(ValueError, match=r"\(0, 0\) comes next"):
            stream.batch(*wrong)
    stream.batch(0, 0)
    with pytest.raises(ValueError, match=r"state at step 0 .*\(0, 1\) comes next"):
        stream.state_dict(0)
    stream.batch(0, 1)
    assert set(stream.state_dict(1)["lanes"]) == {"0", "1"}


def test_a_state_of_other_lanes_is_refused(open_stream: Open, folder: Path):
    state = open_stream(folder, 6).state_dict(0)
    with pytest.raises(UserError, match=r"lanes \[0, 1, 2\] .* has 2 lanes"):
        open_stream(folder, 2).load_state_dict(state)
    state["lanes"]["1"]["step"] = 4
    with pytest.raises(UserError, match=r"at steps \[0, 4\]"):
        open_stream(folder, 6).load_state_dict(state)


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("shards")]


def test_closing_ends_the_threads(open_stream: Open, folder: Path):
    stream = open_stream(folder)
    stream.batch(0, 0)
    assert our_threads()
    stream.close()
    stream.close()
    assert our_threads() == []
    with pytest.raises(RuntimeError, match="shutdown"):
        stream.batch(1, 0)


def test_a_shard_that_is_damaged_meanwhile_is_named_and_ends_the_threads(open_stream: Open, folder: Path):
    stream = open_stream(folder, 1)
    stream.batch(0, 0)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"train-0\d\.\w+ cannot be read: .*; replace or remove it"):
        draw([stream], range(1, 40))
    assert our_threads() == []


LENIENT = {"max_bad_images_fraction": 0.5}


def test_bad_pictures_are_named_once_and_the_next_good_one_takes_their_place(
    open_stream: Open, folder: Path, kind: str
):
    good = np.stack([labels for _, labels in draw([open_stream(folder)], range(40))])
    write_shards(folder, kind, BAD)
    stream = open_stream(folder, **LENIENT)
    assert stream.bad_images == []
    found = draw([stream], range(40))
    for lane in range(3):
        expected = good[:, 2 * lane : 2 * lane + 2].ravel().tolist()
        replaced = [next(n for n in expected[i:] if n not in BAD) for i in range(len(expected) - 8)]
        assert np.stack([labels for _, labels in found])[:, 2 * lane : 2 * lane + 2].ravel()[:-8].tolist() == replaced
    for images, labels in found:
        np.testing.assert_array_equal(images, pixels(labels))
    suffix = {"parquet": "parquet", "webdataset": "tar"}[kind]
    paths = [(0, 3), (1, 1), (2, 2), (2, 3)]
    named = [f"train-{shard:02d}.{suffix}, row {row}" for shard, row in paths]
    reasons = {image["path"]: image["reason"] for image in stream.bad_images}
    assert sorted(image["path"] for image in stream.bad_images) == named
    assert "not an image" in reasons[named[0]]
    assert reasons[named[1]] == reasons[named[3]] == "holds no image"


@pytest.mark.parametrize(("num_processes", "num_micro_steps"), [(2, 3), (4, 1), (12, 1)])
def test_bad_pictures_change_nothing_about_splits_and_going_on(
    open_stream: Open, folder: Path, kind: str, num_processes: int, num_micro_steps: int
):
    write_shards(folder, kind, BAD)
    straight = open_stream(folder, 12, **LENIENT)
    whole = draw([straight], range(8))
    parts = [rows_of(p, num_processes, num_micro_steps, 12) for p in range(num_processes)]
    streams = [open_stream(folder, 12, rows, **LENIENT) for rows in parts]
    assert_same(draw(streams, range(4), num_micro_steps), whole[:4])
    again = [open_stream(folder, 12, rows, **LENIENT) for rows in reversed(parts)][::-1]
    for stream in again:
        stream.load_state_dict(merged(streams, 4))
    assert_same(draw(again, range(4, 8), num_micro_steps), whole[4:])
    assert merged(again, 8) == merged([straight], 8)
    met = {image["path"] for stream in streams + again for image in stream.bad_images}
    assert met == {image["path"] for image in straight.bad_images}


def test_a_class_that_does_not_exist_makes_a_bad_sample(open_stream: Open, folder: Path, kind: str):
    write_shards(folder, kind, {}, {9: None})
    stream = open_stream(folder, **LENIENT)
    assert len(stream.class_names) == NUM_IMAGES
    assert 9 not in np.concatenate([labels for _, labels in draw([stream], range(40))])
    assert [image["reason"] for image in stream.bad_images] == ["its class is None, not one of 22"]


def test_too_many_bad_pictures_stop_the_run(open_stream: Open, folder: Path, kind: str):
    write_shards(folder, kind, BAD)
    # Of 22 images 4 are bad, and the eleventh bad one is more than a hundredth of 1000.
    stream = open_stream(folder, 1, max_bad_images_fraction=0.01)
    with pytest.raises(UserError, match=r"^1[12] of the first [56]\d images .*0\.01.* train-0\d.*, row \d") as error:
        draw([stream], range(100))
    assert "holds no image" in str(error.value)
    assert our_threads() == []
    strict = open_stream(folder, 22, max_bad_images_fraction=0.0)
    with pytest.raises(UserError, match=r"of the first \d+ images cannot be used, .*, 0\.0, allows"):
        draw([strict], range(2))


def test_when_it_stops_depends_on_the_pictures_only(open_stream: Open, folder: Path, kind: str):
    write_shards(folder, kind, BAD)
    messages = set()
    for _ in range(3):
        stream = open_stream(folder, 3, max_bad_images_fraction=0.004)
        with pytest.raises(UserError, match=r"of the first \d+ images") as error:
            draw([stream], range(100))
        messages.add(str(error.value))
    assert len(messages) == 1


def test_only_bad_pictures_are_an_error_and_no_endless_search(open_stream: Open, folder: Path, kind: str):
    write_shards(folder, kind, dict.fromkeys(range(NUM_IMAGES), b"no image"))
    stream = open_stream(folder, max_bad_images_fraction=0.999)
    with pytest.raises(UserError, match=r"1000 images in a row cannot be used, such as row .* not an image"):
        stream.batch(0, 0)
    assert our_threads() == []


def test_shards_without_rows_are_passed_over_and_only_such_are_an_error(open_stream: Open, tmp_path: Path):
    write_shard(tmp_path / "data", "parquet", 0, [], pa.array([], pa.int64()))
    empty = open_stream(tmp_path / "data", 1, class_conditional=False)
    with pytest.raises(UserError, match=r"hold no rows.*train-00\.parquet"):
        empty.batch(0, 0)
    write_shard(tmp_path / "data", "parquet", 1, [png(0), png(1)], [0, 1])
    labels = [labels for _, labels in draw([open_stream(tmp_path / "data", 2)], range(4))]
    assert all(sorted(lane) == [0, 0, 1, 1] for lane in np.stack(labels).T.tolist())
