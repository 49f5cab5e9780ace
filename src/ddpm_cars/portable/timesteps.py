"""Which timesteps a sampling chain visits."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

TimestepSpacing = Literal["linspace", "leading", "trailing"]


def custom_timesteps(timesteps: Sequence[float], num_train_timesteps: int) -> np.ndarray:
    """Return timesteps that somebody has chosen as int64 (n,), or raise ValueError where they make no chain."""
    chosen = np.array(timesteps).astype(np.int64)
    if not np.array_equal(chosen, timesteps):
        raise ValueError(f"`timesteps` must be whole numbers, got {list(timesteps)}.")
    if chosen.size == 0 or np.any(np.diff(chosen) >= 0):
        raise ValueError(f"`timesteps` must be in descending order without repeats, got {list(timesteps)}.")
    if chosen[0] >= num_train_timesteps or chosen[-1] < 0:
        raise ValueError(
            f"`timesteps` must start before `num_train_timesteps`: {num_train_timesteps} and end at 0 or later."
        )
    return chosen


def spaced_timesteps(
    num_inference_steps: float, num_train_timesteps: int, timestep_spacing: str, steps_offset: int
) -> np.ndarray:
    """Spread n timesteps over [0, T - 1], descending int64 (table 2 of Lin et al. 2023, arXiv:2305.08891).

    The offset of "leading" is cut to what fits. A ValueError says where n is no whole number from 1 to T.
    """
    T = num_train_timesteps
    if not 1 <= num_inference_steps <= T or int(num_inference_steps) != num_inference_steps:
        raise ValueError(
            f"`num_inference_steps` is {num_inference_steps}; it must be a whole number from 1 to {T}, the number of "
            "timesteps that the model was trained with (`num_train_timesteps`)."
        )
    n = int(num_inference_steps)
    if timestep_spacing == "linspace":
        return np.linspace(0, T - 1, n).round()[::-1].astype(np.int64)
    if timestep_spacing == "leading":
        ratio = T // n
        offset = min(steps_offset, T - 1 - (n - 1) * ratio)
        return np.arange(n - 1, -1, -1) * ratio + offset
    # "trailing". Rounding errors may make one more, which would be -1.
    return np.round(np.arange(T, 0, -T / n)[:n]).astype(np.int64) - 1
