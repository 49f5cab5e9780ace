"""Lanes: endless sequences of rows, each from its own part of the shards.

The shards of a split are shuffled anew for every epoch, and the epochs follow one another. Of L lanes, lane l reads
the shards l, l + L, l + 2 L ... of that endless sequence. A shard is read from front to back in windows of
`shuffle_window_images` rows, and each window is shuffled in itself. So a lane is a function of the seed and of the
data, and a few numbers say where it stands.
"""

import itertools
from collections import deque
from collections.abc import Generator, Sequence
from typing import NamedTuple

import numpy as np

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.data.shards import Row, Shards
from ddpm_cars.diffusion.seeds import permutation
from ddpm_cars.errors import UserError

MAX_BARREN = 1000
"""A lane that meets so many bad images, or shards without rows, one after another, gives up."""


def _permutation(length: int, *entropy: int) -> np.ndarray:
    # Without its length, entropy would be the same with zeros behind it.
    return permutation(length, len(entropy), *entropy)


class Place(NamedTuple):
    """Where a lane stands: before the row that has this place.

    Attributes:
        turn: The number of shards that the lane has read before this one.
        row: The number of the first row of the window.
        seek: The place from which a reader can read that row.
        offset: The number of shuffled rows in the window that come before.
    """

    turn: int = 0
    row: int = 0
    seek: int = 0
    offset: int = 0


class Lane:
    """An endless sequence of rows.

    Args:
        shards: The shards.
        config: The settings, with the seed and the size of a window.
        lane: The number of the lane.
        num_lanes: How many lanes there are.
        place: Where to begin.
    """

    def __init__(self, shards: Shards, config: TrainingConfig, lane: int, num_lanes: int, place: Place):
        self.shards = shards
        self.seed, self.window_size = config.seed, config.shuffle_window_images
        self.lane, self.num_lanes = lane, num_lanes
        self._rows: deque[tuple[Place, Row]] = deque()
        self._reading = self._read(place)

    def _read(self, place: Place) -> Generator[list[tuple[Place, Row]]]:
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
                    place, rows = Place(), []
                else:
                    yield []
            if rows:
                yield self._shuffle(turn, epoch, rows)[place.offset :]
            if barren == MAX_BARREN:
                raise UserError(f"{barren} shards in a row hold no rows, such as {self.shards.paths[shard]}")
            place = Place()

    def _shuffle(self, turn: int, epoch: int, rows: Sequence[Row]) -> list[tuple[Place, Row]]:
        first = rows[0]
        order = _permutation(len(rows), self.seed, epoch, first.shard, first.number)
        return [(Place(turn, first.number, first.seek, offset), rows[i]) for offset, i in enumerate(order)]

    def peek(self, ahead: int) -> Row:
        """Return the row that is so many places behind the next one."""
        while len(self._rows) <= ahead:
            self._rows += next(self._reading)
        return self._rows[ahead][1]

    def advance(self, num_rows: int) -> Place:
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
