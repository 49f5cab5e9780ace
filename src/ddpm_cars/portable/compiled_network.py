"""Networks behind torch.compile and, on CUDA, in captured graphs."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.utils import logging

logger = logging.get_logger(__name__)


class CapturedFunction:
    """A function of tensors on a GPU, captured in a graph, which replaces thousands of small calls by one.

    The first calls run as they are, so that everything that is prepared once is ready. The shapes and dtypes of the
    arguments must stay, and so must the memory of everything else that the function works on.

    Args:
        function: It takes tensors and returns one, and must not wait for the device.
    """

    _num_plain_calls = 3

    def __init__(self, function: Callable[..., torch.Tensor]):
        self.function = function
        self._num_calls = 0
        self._arguments: list[torch.Tensor] = []
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *arguments: torch.Tensor) -> torch.Tensor:
        """Return the result of the function, in memory that later calls do not use."""
        with torch.cuda.device(arguments[0].device):
            if not self._arguments:
                self._arguments = [argument.clone() for argument in arguments]
                # All first calls share a stream, because each stream keeps memory of its own.
                self._stream = torch.cuda.Stream()
            for kept, given in zip(self._arguments, arguments, strict=True):
                kept.copy_(given)
            self._num_calls += 1
            if self._num_calls <= self._num_plain_calls:
                # Graphs are captured beside the usual stream, too.
                ours = torch.cuda.current_stream()
                self._stream.wait_stream(ours)
                with torch.cuda.stream(self._stream):
                    result = self.function(*self._arguments)
                ours.wait_stream(self._stream)
                return result.clone()
            if self._graph is None:
                graph = torch.cuda.CUDAGraph()
                # Other threads may continue to use the device.
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                    self._result = self.function(*self._arguments)
                self._graph = graph
            self._graph.replay()
            return self._result.clone()


def compiler_options(device: torch.device) -> dict[str, Any] | None:
    """Return the options of torch.compile for a UNet on a device, None if there are none."""
    # Without this, the compiler leaves channels-last where a convolution halves the channels, as half of a UNet does.
    return {"force_layout_optimization": True} if device.type == "cuda" else None


class CompiledNetwork:
    """A network behind torch.compile and, on CUDA, behind captured graphs, which runs in batches of few shapes.

    Batches above `max_batch_size` run in parts of it, and smaller ones are filled up to the next power of two.
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
        """Forget programs for another device, and graphs around weights that have moved since their capture."""
        if self.unet.device.type != self._device_type:
            self._compile()
        places = [tensor.data_ptr() for tensor in (*self.unet.parameters(), *self.unet.buffers())]
        if places != self._places:
            self._programs, self._places = {}, places

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        # Every timestep that is no tensor would need a program of its own, and so would every layout in memory.
        x_t, t = x_t.contiguous(), t.expand(len(x_t)).contiguous()
        labels = None if labels is None else labels.contiguous()
        # The compiler takes a minute for each shape, and gives up after a few.
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
                    # Weights that are moved in and out, as on a small GPU, cannot be captured.
                    captured = x_t.is_cuda and not hasattr(self.unet, "_hf_hook")
                    self._programs[key] = CapturedFunction(self._call_compiled) if captured else self._call_compiled
                return self._programs[key](*arguments)
            except (torch.OutOfMemoryError, MemoryError):
                raise
            except Exception as error:
                # Whatever the compiler lacks here, the network runs without it, or raises the error itself.
                reason = " ".join(str(error).split())[:200]
                logger.warning(
                    f"The network cannot be compiled here and runs as it is: {type(error).__name__}: {reason}"
                )
                self.compiled = None
        return self.unet(x_t, t, class_labels=labels, return_dict=False)[0]

    def _call_compiled(self, x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        return self.compiled(x_t, t, class_labels=labels, return_dict=False)[0]
