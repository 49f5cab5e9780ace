"""Images from shards while a run trains, for data larger than a machine, from a position that resumes exactly.

The shards of a split are shuffled anew for every epoch, and the epochs follow one another. Of L lanes, lane l reads
the shards l, l + L, l + 2 L ... of that endless sequence. A shard is read from front to back in windows of
`shuffle_window_images` rows, and each window is shuffled in itself. So a lane is a function of the seed and of the
data, and a few numbers say where it stands.

Lanes are read side by side, and each of them fills the same rows of every global batch. So a batch is a function of
(seed, step, row) and of the data, however many processes and threads share the work.
"""

import itertools
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import numpy as np
import torch

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.data.row_decoding import BadImages, Decoder
from ddpm_cars.data.shards import Row, Shards, open_shards
from ddpm_cars.diffusion.seeds import permutation
from ddpm_cars.errors import UserError
from ddpm_cars.runtime.threads import num_cores

_PREFETCH_STEPS = 2
_MAX_THREADS = 16
# The first step reads one window for every lane. So many lanes mix well; more of them are for large batches only.
_ENOUGH_LANES, _ROWS_OF_A_LANE = 16, 16
# A lane that meets so many bad images, or shards without rows, one after another, gives up.
_MAX_BARREN = 1000


def _permutation(length: int, *entropy: int) -> np.ndarray:
    # Without its length, entropy would be the same with zeros behind it.
    return permutation(length, len(entropy), *entropy)


class _Place(NamedTuple):
    """Where a lane stands: before the row that has this place."""

    turn: int = 0  # The number of shards that the lane has read before this one.
    row: int = 0  # The number of the first row of the window.
    seek: int = 0  # The place from which a reader can read that row.
    offset: int = 0  # The number of shuffled rows in the window that come before.


class _Lane:
    """An endless sequence of rows."""

    def __init__(self, shards: Shards, config: TrainingConfig, lane: int, num_lanes: int, place: _Place):
        self.shards = shards
        self.seed, self.window_size = config.seed, config.shuffle_window_images
        self.lane, self.num_lanes = lane, num_lanes
        self._rows: deque[tuple[_Place, Row]] = deque()
        self._reading = self._read(place)

    def _read(self, place: _Place) -> Generator[list[tuple[_Place, Row]]]:
        """Read on by one row at a time, and yield the shuffled window that it completes, or nothing."""
        num_shards, barren = len(self.shards.paths), 0
        for turn in itertools.count(place.turn):
            epoch, position = divmod(self.lane + turn * self.num_lanes, num_shards)
            shard = int(_permutation(num_shards, self.seed, epoch)[position])
            rows: list[Row] = []
            barren += 1
            for one in self.shards.rows(shard, place.row, place.seek):
                barren = 0
                rows.append(one)
                if len(rows) == self.window_size:
                    yield self._shuffle(turn, epoch, rows)[place.offset :]
                    place, rows = _Place(), []
                else:
                    yield []
            if rows:
                yield self._shuffle(turn, epoch, rows)[place.offset :]
            if barren == _MAX_BARREN:
                raise UserError(f"{barren} shards in a row hold no rows, such as {self.shards.paths[shard]}")
            place = _Place()

    def _shuffle(self, turn: int, epoch: int, rows: Sequence[Row]) -> list[tuple[_Place, Row]]:
        first = rows[0]
        order = _permutation(len(rows), self.seed, epoch, first.shard, first.number)
        return [(_Place(turn, first.number, first.seek, offset), rows[i]) for offset, i in enumerate(order)]

    def peek(self, ahead: int) -> Row:
        """Return the row that is so many places behind the next one."""
        while len(self._rows) <= ahead:
            self._rows += next(self._reading)
        return self._rows[ahead][1]

    def advance(self, num_rows: int) -> _Place:
        """Use up some rows and return the place that is reached."""
        for _ in range(num_rows):
            self.peek(0)
            self._rows.popleft()
            # Reading at the pace of use avoids a standstill between windows, and holds only one of them in memory.
            self._rows += next(self._reading)
        self.peek(0)
        return self._rows[0][0]

    def close(self) -> None:
        """Let go of the open shard."""
        self._reading.close()


class _Step(NamedTuple):
    """A step that is being prepared: its arrays by micro step, and the tasks that fill them by lane."""

    images: list[np.ndarray]
    labels: list[np.ndarray | None]
    lanes: dict[int, Future]


class ShardStream:
    """The images of the batches of a run, read from shards ahead of their use.

    Row r of a global batch of B comes from lane r * num_lanes // B. An image that cannot be used is recorded, and its
    row shows the next good image of the lane, which also comes in its own turn. So places are counts of rows, whatever
    is bad, and a process decodes only its own: `rows` of the global batch, for each micro step.

    There is a lane for every 16 rows of a batch, or 16 if that is more, but not more than there are shards or rows.
    Raises UserError if there are no such shards, or they do not hold what the settings say.
    """

    def __init__(self, config: TrainingConfig, num_channels: int, global_batch_size: int, rows: Sequence[range]):
        self.config = config
        self._shards = open_shards(config, config.split)
        self._decode = Decoder(config, num_channels, self._shards)
        self.shards, self.fingerprint = list(self._shards.names), self._shards.fingerprint
        self.class_names = self._shards.class_names
        wished = max(_ENOUGH_LANES, global_batch_size // _ROWS_OF_A_LANE)
        self.num_lanes = L = min(len(self.shards), global_batch_size, wished)
        owners = [row * L // global_batch_size for row in range(global_batch_size)]
        first_rows = [owners.index(lane) for lane in range(L)]
        self._lane_sizes = [owners.count(lane) for lane in range(L)]
        self._micro_sizes = [len(part) for part in rows]
        # For every row that this process fills, by lane: its distance from the first row of the lane, and its place.
        self._wanted: dict[int, list[tuple[int, int, int]]] = {}
        for micro_step, part in enumerate(rows):
            for i, row in enumerate(part):
                lane = owners[row]
                self._wanted.setdefault(lane, []).append((row - first_rows[lane], micro_step, i))
        # A lane always has the same thread, because it has no locks.
        num_threads = min(len(self._wanted), _MAX_THREADS)
        self._threads = [ThreadPoolExecutor(1, f"shards-{i}") for i in range(num_threads)]
        self._decoders = ThreadPoolExecutor(min(num_cores(), _MAX_THREADS), "shards-decode")
        self._bad = BadImages(self._shards, config.max_bad_images_fraction)
        self._steps: dict[int, _Step] = {}
        self._lanes: dict[int, _Lane] = {}
        self._next = (0, 0)
        self._begin(0, dict.fromkeys(self._wanted, _Place()))

    @property
    def bad_images(self) -> list[dict[str, str]]:
        """Images in the steps drawn so far that could not be used: {"path", "reason"}, each once."""
        return [{"path": path, "reason": reason} for path, reason in self._bad.reasons.items()]

    def batch(self, step: int, micro_step: int) -> tuple[torch.Tensor, np.ndarray | None]:
        """Return the images of a micro step, uint8 (rows, H, W, C), and any classes of theirs, int64 (rows,).

        Micro steps are asked for in order, each of them once. Raises UserError if a shard cannot be read, or too many
        images are bad; the threads have ended then.
        """
        if (step, micro_step) != self._next:
            raise ValueError(f"step {step}, micro step {micro_step} is asked for, but {self._next} comes next")
        if micro_step == 0:
            try:
                self._current = self._finish(step)
            except BaseException:
                self.close()
                raise
        last = micro_step == len(self._micro_sizes) - 1
        self._next = (step + 1, 0) if last else (step, micro_step + 1)
        return torch.from_numpy(self._current.images[micro_step]), self._current.labels[micro_step]

    def state_dict(self, step: int) -> dict[str, Any]:
        """Return where the lanes of this process stand before a step: {"lanes": {number of the lane: place}}.

        A run goes on from the lanes of all processes together.
        """
        if (step, 0) != self._next:
            raise ValueError(f"the state at step {step} is asked for, but {self._next} comes next")
        return {
            "lanes": {str(lane): {"step": step, **place._asdict()} for lane, place in sorted(self._places.items())}
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that holds the lanes of all processes, whatever their number was.

        Raises UserError if it has other lanes, or its lanes do not stand at the same step.
        """
        places = {int(lane): dict(place) for lane, place in state["lanes"].items()}
        steps = {place.pop("step") for place in places.values()}
        if sorted(places) != list(range(self.num_lanes)) or len(steps) != 1:
            raise UserError(
                f"the state has lanes {sorted(places)} at steps {sorted(steps)}, but the run has {self.num_lanes} "
                "lanes; resume with the shards and the global batch size it had, and from the states of all processes"
            )
        self._begin(steps.pop(), {lane: _Place(**places[lane]) for lane in self._wanted})

    def close(self) -> None:
        """End the threads and close the files. Nothing can be drawn afterwards."""
        for thread in self._threads:
            thread.shutdown(wait=False, cancel_futures=True)
        for thread in self._threads:
            thread.shutdown()
        self._decoders.shutdown()
        for lane in self._lanes.values():
            lane.close()

    def _begin(self, step: int, places: dict[int, _Place]) -> None:
        futures = [future for ahead in self._steps.values() for future in ahead.lanes.values()]
        wait([future for future in futures if not future.cancel()])
        for lane in self._lanes.values():
            lane.close()
        self._steps.clear()
        self._lanes = {n: _Lane(self._shards, self.config, n, self.num_lanes, place) for n, place in places.items()}
        self._places = places
        self._next = (step, 0)

    def _finish(self, step: int) -> _Step:
        for ahead in range(step, step + 1 + _PREFETCH_STEPS):
            if ahead not in self._steps:
                self._steps[ahead] = self._start()
        # Bad images are reported in the order of steps and lanes, whatever the threads did meanwhile.
        done = self._steps.pop(step)
        for lane, future in sorted(done.lanes.items()):
            self._places[lane], num_read, bad = future.result()
            self._bad.add(num_read, bad)
        return done

    def _start(self) -> _Step:
        shape, labelled = self._decode.shape, self._shards.label_column is not None
        images = [np.empty((size, *shape), np.uint8) for size in self._micro_sizes]
        labels = [np.empty(size, np.int64) if labelled else None for size in self._micro_sizes]
        threads = zip(self._lanes, itertools.cycle(self._threads))
        return _Step(images, labels, {n: thread.submit(self._fill, n, images, labels) for n, thread in threads})

    def _fill(
        self, lane: int, images: list[np.ndarray], labels: list[np.ndarray | None]
    ) -> tuple[_Place, int, list[Row]]:
        """Fill the rows of a step that come from a lane; return its place, how many rows it read and the bad ones."""
        source, wanted = self._lanes[lane], self._wanted[lane]
        fresh = [row for row in (source.peek(ahead) for ahead, _, _ in wanted) if row.result is None]
        for future in [self._decoders.submit(self._decode, row) for row in fresh]:
            future.result()
        for ahead, micro_step, i in wanted:
            row = self._good_row(source, ahead, fresh)
            images[micro_step][i] = row.result
            if (targets := labels[micro_step]) is not None:
                targets[i] = row.label
        return source.advance(self._lane_sizes[lane]), len(fresh), [r for r in fresh if isinstance(r.result, str)]

    def _good_row(self, source: _Lane, ahead: int, fresh: list[Row]) -> Row:
        """Return the row that is so many places behind the next one, or the first good row after it."""
        for further in range(ahead, ahead + _MAX_BARREN):
            row = source.peek(further)
            if row.result is None:
                self._decode(row)
                fresh.append(row)
            if not isinstance(row.result, str):
                return row
        raise UserError(
            f"{_MAX_BARREN} images in a row cannot be used, such as row {row.number} of "
            f"{self.shards[row.shard]}: {row.result}; mend them"
        )
