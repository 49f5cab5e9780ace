"""Networks behind torch.compile and, on CUDA, in captured graphs."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.utils import logging

logger = logging.get_logger(__name__)


class CapturedFunction:
    """A function of tensors on a GPU, captured in a graph: one call where there were thousands of small ones.

    The first calls run as they are, and prepare what is prepared once. Shapes, dtypes and the memory of whatever else
    the function works on must stay.

    Args:
        function: Takes tensors and returns one. It must not wait for the device.
    """

    _num_plain_calls = 3

    def __init__(self, function: Callable[..., torch.Tensor]):
        self.function = function
        self._num_calls = 0
        self._arguments: list[torch.Tensor] = []
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *arguments: torch.Tensor) -> torch.Tensor:
        """Return what the function returns, in memory of its own."""
        with torch.cuda.device(arguments[0].device):
            return self._call(*arguments)

    def _call(self, *arguments: torch.Tensor) -> torch.Tensor:
        if not self._arguments:
            self._arguments = [argument.clone() for argument in arguments]
            # One for all first calls: each stream keeps memory of its own.
            self._stream = torch.cuda.Stream()
        for kept, given in zip(self._arguments, arguments, strict=True):
            kept.copy_(given)
        self._num_calls += 1
        if self._num_calls <= self._num_plain_calls:
            return self._run_plainly()
        if self._graph is None:
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on using the device.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._result = self.function(*self._arguments)
            self._graph = graph
        self._graph.replay()
        return self._result.clone()

    def _run_plainly(self) -> torch.Tensor:
        # Beside the usual stream, as graphs are captured.
        ours = torch.cuda.current_stream()
        self._stream.wait_stream(ours)
        with torch.cuda.stream(self._stream):
            result = self.function(*self._arguments)
        ours.wait_stream(self._stream)
        return result.clone()


def compiler_options(device: torch.device) -> dict[str, Any] | None:
    """Return what torch.compile has to be told of a UNet on a device, None where it is nothing."""
    # By itself the compiler leaves channels-last where a convolution halves its channels, as half of a UNet does.
    return {"force_layout_optimization": True} if device.type == "cuda" else None


class CompiledNetwork:
    """A network behind torch.compile, and behind a captured graph on CUDA, in batches of few shapes.

    Args:
        unet: The network.
        max_batch_size: Larger batches are run in parts of this size, and smaller ones in the next power of two.
    """

    def __init__(self, unet: UNet2DModel, max_batch_size: int):
        self.unet = unet
        self.max_batch_size = max_batch_size
        self._programs: dict[tuple[Any, ...], Callable[..., torch.Tensor]] = {}
        self._places: list[int] = []
        self._compile()

    def _compile(self) -> None:
        self._device_type = self.unet.device.type
        self.compiled: Any = torch.compile(self.unet, dynamic=False, options=compiler_options(self.unet.device))

    @property
    def is_captured(self) -> bool:
        """Whether any batch has been run from a captured graph."""
        return any(isinstance(program, CapturedFunction) for program in self._programs.values())

    def begin(self) -> None:
        """Forget what was compiled for another device, and captured around weights that have moved since."""
        if self.unet.device.type != self._device_type:
            self._compile()
        places = [tensor.data_ptr() for tensor in (*self.unet.parameters(), *self.unet.buffers())]
        if places != self._places:
            self._programs, self._places = {}, places

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        # As a tensor, or every timestep would be a program of its own; so would every other layout in memory.
        x_t, t = x_t.contiguous(), t.expand(len(x_t)).contiguous()
        labels = None if labels is None else labels.contiguous()
        # The compiler gives up on a network after a few shapes, and takes a minute for each.
        n = min(1 << (len(x_t) - 1).bit_length(), self.max_batch_size)
        if len(x_t) == n:
            return self._run(x_t, t, labels)
        rows = torch.arange(len(x_t) + -len(x_t) % n, device=x_t.device) % len(x_t)
        parts = [self._run(x_t[i], t[i], None if labels is None else labels[i]) for i in rows.split(n)]
        return torch.cat(parts)[: len(x_t)]

    def _run(self, x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        arguments = (x_t, t) if labels is None else (x_t, t, labels)
        if self.compiled is not None:
            try:
                # Schedulers number their timesteps by integers or by fractions.
                key = tuple((argument.shape, argument.dtype) for argument in arguments)
                if key not in self._programs:
                    # Weights that are moved in and out, as for a small GPU, cannot be captured.
                    captured = x_t.is_cuda and not hasattr(self.unet, "_hf_hook")
                    self._programs[key] = CapturedFunction(self._call_compiled) if captured else self._call_compiled
                return self._programs[key](*arguments)
            except (torch.OutOfMemoryError, MemoryError):
                raise
            except Exception as error:
                # Whatever it is that a compiler lacks here, the network runs without it, or raises by itself.
                reason = " ".join(str(error).split())[:200]
                logger.warning(
                    f"The network cannot be compiled here and runs as it is: {type(error).__name__}: {reason}"
                )
                self.compiled = None
        return self.unet(x_t, t, class_labels=labels, return_dict=False)[0]

    def _call_compiled(self, x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        return self.compiled(x_t, t, class_labels=labels, return_dict=False)[0]
