"""What the network sees at a step: images, noise, timesteps and classes, as functions of (seed, step, position)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.data.pictures import Pictures, to_samples
from ddpm_cars.data.stream import ShardStream
from ddpm_cars.diffusion.seeds import permutation, seeded_generator, step_seed


class BatchOrder:
    """Which images each optimiser step sees: every image once an epoch, in an order that the seed and epoch decide.

    The epochs follow one another without end; with a global batch of B, step k takes positions k B to (k + 1) B - 1.
    """

    def __init__(self, num_images: int, global_batch_size: int, seed: int):
        self.num_images = num_images
        self.global_batch_size = global_batch_size
        self.seed = seed
        self._epochs: dict[int, np.ndarray] = {}

    def __call__(self, step: int) -> np.ndarray:
        """Return the int64 indices (global_batch_size,) of the images of `step`."""
        position = step * self.global_batch_size + np.arange(self.global_batch_size)
        epochs, offsets = np.divmod(position, self.num_images)
        # Consecutive steps mostly share an epoch. Older epochs are forgotten.
        needed = range(int(epochs[0]), int(epochs[-1]) + 1)
        self._epochs = {
            epoch: self._epochs[epoch] if epoch in self._epochs else permutation(self.num_images, self.seed, epoch)
            for epoch in needed
        }
        return np.stack([self._epochs[epoch][offset] for epoch, offset in zip(epochs, offsets, strict=True)])


class Batch(NamedTuple):
    """The rows of a global batch that one process computes at once.

    x_0 and eps are float32 (rows, C, H, W), t and the class labels int64 (rows,).
    """

    x_0: torch.Tensor
    eps: torch.Tensor
    t: torch.Tensor
    class_labels: torch.Tensor | None


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor from memory to a device without waiting for what the device is doing."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        # A copy from memory that is not pinned would wait.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def has_room(device: torch.device, num_bytes: int) -> bool:
    """Return whether a device with its own memory has four times as much of it free as images take."""
    return device.type == "cuda" and 4 * num_bytes <= torch.cuda.mem_get_info(device)[0]


class MemorySource:
    """Images that are decoded already, all of them kept on a device, or without one read from the memory map."""

    def __init__(
        self, pictures: Pictures, order: BatchOrder, rows: Sequence[range], device: torch.device | None = None
    ):
        self.pictures = pictures
        self.order = order
        self.rows = rows
        self._images = None if device is None else torch.from_numpy(np.array(pictures.images)).to(device)
        # Images that cannot be decoded are known before a run, and reported then.
        self.bad_images: list[dict[str, str]] = []

    def batch(self, step: int, micro_step: int) -> tuple[torch.Tensor, np.ndarray | None]:
        """Return this process's images, uint8 (rows, H, W, C), and their classes, int64 (rows,)."""
        chosen = self.order(step)[self.rows[micro_step]]
        if self._images is None:
            images = torch.from_numpy(self.pictures.images[chosen])
        else:
            images = self._images[to_device(torch.from_numpy(chosen), self._images.device)]
        labels = self.pictures.labels
        return images, None if labels is None else labels[chosen]

    def state_dict(self, step: int) -> dict[str, Any]:
        """Return nothing: the order is a function of the step."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing, for the same reason."""

    def close(self) -> None:
        """Do nothing: the memory map closes itself."""


@dataclass
class BatchMaker:
    """Turns images into batches.

    With `noise_offset`, eps = z + noise_offset z_c, with z ~ N(0, I) and a z_c ~ N(0, 1) for each image and channel,
    as in diffusers' train_text_to_image.py: the mean of a channel, which z alone hardly changes, gets noise too. The
    network learns to predict all of eps (or v of it), and x_T is then not N(0, I) but N(0, I + noise_offset^2 1 1^T)
    in every channel. Sampling starts from N(0, I) all the same, which is how such models are used: they take the mean
    of a channel in x_T for one that may change. What measures a model uses noise without an offset.

    Every process draws the randomness of the whole batch and keeps its own rows, so that it changes nothing how a
    batch is split over processes and micro steps.
    """

    config: TrainingConfig
    source: MemorySource | ShardStream
    rows: Sequence[range]  # of the global batch, which this process computes, for each micro step
    global_batch_size: int
    num_classes: int | None  # the label of a hidden class as well; None without classes
    device: torch.device
    memory_format: torch.memory_format  # of x_0

    def __call__(self, step: int, micro_step: int) -> Batch:
        """Return this process's part of a step's batch."""
        config, B, device, rows = self.config, self.global_batch_size, self.device, self.rows[micro_step]
        images, labels = self.source.batch(step, micro_step)
        # Bytes are copied, and become floating-point numbers on the device.
        x_0 = to_samples(to_device(images, device)).contiguous(memory_format=self.memory_format)
        generator = seeded_generator(step_seed(config.seed, step), device)
        mine = slice(rows.start, rows.stop)
        t = self._timesteps(generator)[mine]
        if config.random_flip:
            flip = torch.rand(B, generator=generator, device=device)[mine] < 0.5
            x_0 = torch.where(flip[:, None, None, None], x_0.flip(-1), x_0)
        eps = torch.randn((B, *x_0.shape[1:]), generator=generator, device=device)[mine]
        class_labels = None
        if self.num_classes is not None and labels is not None:
            class_labels = to_device(torch.from_numpy(labels), device)
            hidden = torch.rand(B, generator=generator, device=device)[mine] < config.class_dropout_prob
            class_labels = torch.where(hidden, self.num_classes, class_labels)
        if config.noise_offset is not None:
            # Drawn last, so that a run with an offset has all else in common with one without.
            offset = torch.randn((B, x_0.shape[1], 1, 1), generator=generator, device=device)[mine]
            eps = eps + config.noise_offset * offset
        return Batch(x_0, eps, t, class_labels)

    def row_seeds(self, step: int, micro_step: int) -> list[int]:
        """Return a seed for each row of a batch, for what else is random about it."""
        return [step_seed(self.config.seed, step, row) for row in self.rows[micro_step]]

    def _timesteps(self, generator: torch.Generator) -> torch.Tensor:
        """Draw t for the whole batch: independent, or one from each of B equal parts of 0 .. T - 1, shuffled."""
        B, T, device = self.global_batch_size, self.config.num_train_timesteps, self.device
        if self.config.timestep_sampling == "uniform":
            return torch.randint(T, (B,), generator=generator, device=device)
        u = torch.rand(B, generator=generator, device=device)
        part = torch.randperm(B, generator=generator, device=device)
        return ((part + u) * (T / B)).long().clamp(max=T - 1)


def rows_of_process(
    process_index: int, num_processes: int, batch_size: int, gradient_accumulation_steps: int
) -> list[range]:
    """Return which rows of the global batch a process computes in each micro step.

    Micro step after micro step, process after process: the global batch is the same whatever the split.
    """
    parts = [micro_step * num_processes + process_index for micro_step in range(gradient_accumulation_steps)]
    return [range(part * batch_size, (part + 1) * batch_size) for part in parts]
