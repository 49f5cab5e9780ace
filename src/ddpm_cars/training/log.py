"""What is measured while a run trains: the record in the making, and all the records so far."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.figures.curves import plot_loss
from ddpm_cars.runs.run_folder import RunFolder
from ddpm_cars.runtime import files

_NUM_QUARTERS = 4
_IMAGE_LAYOUT = {"tensorboard": {"dataformats": "NHWC"}}


def quarter_sums(mse: torch.Tensor, t: torch.Tensor, num_train_timesteps: int) -> torch.Tensor:
    """Return the sums of the errors (batch,) at timesteps in each quarter of 0 .. T - 1, then the numbers of them."""
    quarter = t * _NUM_QUARTERS // num_train_timesteps
    in_quarter = (quarter[:, None] == torch.arange(_NUM_QUARTERS, device=t.device)).double()
    return torch.cat([(in_quarter * mse[:, None].double()).sum(0), in_quarter.sum(0)])


class Log:
    """The records of a run, whose steps are summed up on the device without waiting for them."""

    def __init__(self, device: torch.device):
        # This process's part of the record in the making: the sum and the number of losses, the sum and the number of
        # gradient norms, then what `quarter_sums` gives.
        self.sums = torch.zeros(4 + 2 * _NUM_QUARTERS, dtype=torch.float64, device=device)
        self.history: list[dict[str, float]] = []
        self.validation: list[dict[str, Any]] = []  # {"step", "eps_mse": {average: value}}
        self.best: dict[str, Any] | None = None  # {"step", "average", "eps_mse"} of the lowest

    def add(self, loss: torch.Tensor, gradient_norm: torch.Tensor, quarters: torch.Tensor) -> None:
        """Add a step's loss, gradient norm and `quarter_sums`, all float64, without waiting for the device."""
        # Where the scaler of gradients has left the step out, the norm is not finite and does not count.
        has_norm = torch.isfinite(gradient_norm)
        norm = gradient_norm.masked_fill(~has_norm, 0.0)
        self.sums += torch.cat([torch.stack([loss, torch.ones_like(loss), norm, has_norm.double()]), quarters])

    def share_sums(self, of_processes: torch.Tensor, accelerator: Accelerator) -> None:
        """Give every process its part of a record in the making that other processes saved, (processes, 12)."""
        n = len(of_processes)
        if n == accelerator.num_processes:
            self.sums.copy_(of_processes[accelerator.process_index])
        elif accelerator.is_main_process:
            total = of_processes.sum(0)
            # Losses and norms are summed per process, the quarters per image.
            total[:4] *= accelerator.num_processes / n
            self.sums.copy_(total)

    def close_record(self, accelerator: Accelerator, step: int, extra: Mapping[str, float]) -> dict[str, float]:
        """Record the steps since the last record, and `extra`. Every process has to call this."""
        loss, num_losses, norm, num_norms, *quarters = accelerator.reduce(self.sums, "sum").tolist()
        self.sums.zero_()
        means: dict[str, float] = {}
        # Where every step since was left out, there is nothing to average.
        if num_losses:
            means["loss"] = loss / num_losses
        for i, (total, number) in enumerate(zip(quarters[:_NUM_QUARTERS], quarters[_NUM_QUARTERS:], strict=True), 1):
            if number:
                means[f"loss_q{i}"] = total / number
        if num_norms:
            means["gradient_norm"] = norm / num_norms
        record = {"step": step, **means, **extra}
        self.history.append(record)
        accelerator.log({**means, **extra}, step=step)
        return record

    def save(self, folder: RunFolder) -> None:
        """Write the records of the loss and their curve, and the measurements on held-out images if there are any."""
        files.write_text(folder.loss, json.dumps(self.history, indent=1))
        if self.validation:
            files.write_text(folder.validation, json.dumps(self.validation, indent=1))
        if self.history:
            plot_loss(self.history, folder.loss_plot, self.validation)


def track_image(accelerator: Accelerator, name: str, path: Path, step: int) -> None:
    """Give an image to the tracker, if there is one, on the main process."""
    for tracker in accelerator.trackers:
        if tracker.name == "trackio":
            # Accelerate passes numbers only to this one.
            import trackio

            tracker.log({name: trackio.Image(path)}, step=step)
            continue
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))[None]
        tracker.log_images({name: pixels}, step=step, **_IMAGE_LAYOUT.get(tracker.name, {}))


def start_tracker(accelerator: Accelerator, config: TrainingConfig, run_id: str, step: int) -> None:
    """Open the tracker, or continue in the run that it knows, without the records after `step`, which come again."""
    if config.logger is None:
        return
    settings = {k: v if isinstance(v, int | float | str) else str(v) for k, v in asdict(config).items()}
    known = {
        "tensorboard": {"purge_step": step + 1},
        "wandb": {"id": run_id, "resume": "allow"},
        "trackio": {"name": run_id, "resume": "allow"},
    }
    accelerator.init_trackers("ddpm_cars", config=settings, init_kwargs=known)
