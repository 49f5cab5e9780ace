"""What does not change while a run trains."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.data.pictures import Pictures
from ddpm_cars.runs.run_folder import RunFolder
from ddpm_cars.runtime.folders import FolderLock
from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler
from ddpm_cars.training.batches import rows_of_process
from ddpm_cars.training.validation import HeldOut


@dataclass(frozen=True)
class Run:
    """A run that is ready to begin, as `prepare` makes it."""

    config: TrainingConfig  # with all choices made
    chosen: set[str]  # the settings that the user has left to the machine
    folder: RunFolder
    lock: FolderLock
    accelerator: Accelerator
    hardware: dict[str, Any]  # {"device", "num_processes", "mixed_precision"}
    memory_format: torch.memory_format  # of images and weights
    num_channels: int  # of the images: 3 for colour, 1 for grey
    images: Pictures | None  # None where they are streamed
    class_names: tuple[str, ...]  # empty without `class_conditional`
    noise_scheduler: DDPMCarsScheduler
    held_out: HeldOut | None
    batch_size: int  # images that a process computes at a time
    accumulation: int  # how many such batches a process takes for one step
    total_steps: int
    learning_rate: Callable[[int], float]  # of an optimiser step, counted from 0
    activation_bytes_per_image: int = 0  # that the forward pass keeps for the backward pass

    @property
    def device(self) -> torch.device:
        """Return the device of this process."""
        return self.accelerator.device

    @property
    def num_classes(self) -> int | None:
        """Return the number of classes, None where the model learns no classes."""
        return len(self.class_names) if self.config.class_conditional else None

    @property
    def global_batch_size(self) -> int:
        """Return the images of a step over all processes."""
        return self.batch_size * self.accumulation * self.accelerator.num_processes

    @property
    def rows(self) -> list[range]:
        """Return the rows of a step's global batch that this process computes, batch by batch."""
        processes = self.accelerator
        return rows_of_process(processes.process_index, processes.num_processes, self.batch_size, self.accumulation)
