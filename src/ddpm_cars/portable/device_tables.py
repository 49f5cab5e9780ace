"""Tables of numbers that are computed once in float64 and are at hand on every device that has asked for them."""

import numpy as np
import torch


class DeviceTable:
    """A table that never changes, with a copy on every device and in every dtype that it was asked for.

    Args:
        values: Computed in float64, or integers.
    """

    def __init__(self, values: np.ndarray):
        self._values, self._num_rows = torch.from_numpy(values), len(values)
        self._copies: dict[tuple[torch.device, torch.dtype | None], torch.Tensor] = {}

    def on(self, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return the table on a device, where it stays, in its own dtype or another."""
        key = (device, dtype)
        if key not in self._copies:
            # Apple's devices have no float64.
            narrow = device.type == "mps" and self._values.dtype == torch.float64
            self._copies[key] = self._values.to(device, dtype or (torch.float32 if narrow else self._values.dtype))
        return self._copies[key]

    def rows(self, index: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Return the rows with some numbers, integers of any shape, without waiting for a device to say which."""
        # Indexing with brackets would read a 0-d index as a number.
        return self.on(device).index_select(0, index.to(device).long().flatten())

    def columns(self, timesteps: torch.Tensor, sample: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the columns of some timesteps, a tensor per row, shaped to multiply a sample, in float32 or wider."""
        if timesteps.is_floating_point():
            raise ValueError(f"timesteps are {timesteps.dtype}; noise levels are numbered by integers: use .long().")
        device = sample.device
        table = self.on(device, torch.promote_types(sample.dtype, torch.float32))
        chosen = table.index_select(1, timesteps.to(device).long().flatten())
        return chosen.view(self._num_rows, -1, *[1] * (sample.ndim - 1)).unbind()


def edit_count(tensor: torch.Tensor) -> int | None:
    """Return a number that changes whenever a tensor is written to, or None where torch does not count."""
    return None if tensor.is_inference() else tensor._version


def is_edited(tensor: torch.Tensor, count: int | None) -> bool:
    """Tell whether a tensor was written to since `edit_count` gave a number."""
    # A compiled program is made for the values that it has seen.
    return not torch.compiler.is_compiling() and edit_count(tensor) != count
