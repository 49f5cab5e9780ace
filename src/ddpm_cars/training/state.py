"""What a run has to remember, and how it is written and read."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel
from torch.distributed.tensor import DTensor, distribute_tensor

from ddpm_cars.config.fields import settings_with
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.errors import UserError
from ddpm_cars.training import checkpoints
from ddpm_cars.training.averages import RAW

NUM_SUMS = 12
"""Of a record in the making: sum and number of losses, of gradient norms, then of the losses in each quarter of T."""


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole of a tensor that may be spread over processes, which then all have to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    # One at a time on the CPU: all of them together need not fit beside a process's part.
    return full_tensor(tensor).cpu() if isinstance(tensor, DTensor) else tensor


def _placed_like(like: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.shape != like.shape:
        return tensor
    if isinstance(like, DTensor):
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    # A fused optimiser wants moments to lie in memory as weights do, and files know one order only.
    return torch.empty_like(like, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


@dataclass
class TrainState:
    """All that changes while a run trains.

    Attributes:
        unet: The network.
        optimizer: Its optimiser.
        averages: Moving averages of the weights, by half-life in steps.
        sums: float64 (NUM_SUMS,), this process's part of the record in the making.
        facts: What the run is, besides its settings: images, network, batch. They may not change.
        step: Optimiser steps done.
        total_steps: Where the run is to end, which the learning rate depends on.
        skipped_steps: Steps that were left out because something was not finite.
        history: The records of the log.
        validation: {"step", "eps_mse": {average: value}} for every measurement on held-out images.
        best: {"step", "average", "eps_mse"} of the lowest of these, or None.
        bad_images: {"path", "reason"} of images that could not be decoded on the way.
        hardware: {"device", "num_processes", "steps", "seconds"} of everything it ran on.
        run_id: What trackers know the run by.
    """

    unet: UNet2DModel
    optimizer: torch.optim.Optimizer
    averages: dict[str, EMAModel]
    sums: torch.Tensor
    facts: dict[str, Any]
    total_steps: int
    run_id: str
    step: int = 0
    skipped_steps: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    bad_images: list[dict[str, str]] = field(default_factory=list)
    hardware: list[dict[str, Any]] = field(default_factory=list)

    def count_time(self, hardware: Mapping[str, Any], seconds_per_step: float) -> None:
        """Credit some hardware with the steps since the last call, also those that a stop has left uncounted."""
        if not self.hardware or not hardware.items() <= self.hardware[-1].items():
            self.hardware.append({**hardware, "steps": 0, "seconds": 0.0})
        steps = self.step - sum(part["steps"] for part in self.hardware)
        self.hardware[-1]["steps"] += steps
        self.hardware[-1]["seconds"] = round(self.hardware[-1]["seconds"] + steps * seconds_per_step, 3)

    def weights(self, average: str) -> dict[str, torch.Tensor]:
        """Return a network's state dict with one of the averages in it, or the weights themselves for `RAW`.

        Where tensors are spread over processes, all of them have to ask.
        """
        tensors = {name: _whole(tensor.detach()) for name, tensor in self.unet.state_dict().items()}
        if average != RAW:
            names = [name for name, _ in self.unet.named_parameters()]
            tensors.update(zip(names, map(_whole, self.averages[average].shadow_params), strict=True))
        return tensors

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """Return all tensors of a checkpoint, in groups, whole."""
        names = [name for name, _ in self.unet.named_parameters()]
        optimizer = checkpoints.flatten_optimizer(self.optimizer)
        groups = {"unet": self.weights(RAW), "optimizer": {k: _whole(v) for k, v in optimizer.items()}}
        for name, average in self.averages.items():
            groups[f"average-{name}"] = dict(zip(names, map(_whole, average.shadow_params), strict=True))
        return groups

    def numbers(self) -> dict[str, Any]:
        """Return what a checkpoint says in JSON, but for the settings and what other processes know."""
        names = "facts total_steps skipped_steps history validation best bad_images hardware run_id".split()
        return {name: getattr(self, name) for name in names}

    def load(self, path: Path, config: TrainingConfig) -> dict[str, Any]:
        """Continue from the checkpoint at `path` and return what its JSON says.

        Raises:
            UserError: If it belongs to a run with other settings, images, network or batch.
        """
        tensors, state = checkpoints.load_checkpoint(path)
        _check_same_run(path, state, config, self.facts)
        named = dict(self.unet.named_parameters())
        placed = {k: _placed_like(named[k], v) if k in named else v for k, v in tensors["unet"].items()}
        self.unet.load_state_dict(placed)
        parameters = list(named.values())
        moments = {k: _placed_like(parameters[int(k.split(".")[0])], v) for k, v in tensors["optimizer"].items()}
        checkpoints.restore_optimizer(self.optimizer, moments)
        for half_life, average in self.averages.items():
            for shadow, name in zip(average.shadow_params, named, strict=True):
                shadow.copy_(_placed_like(shadow, tensors[f"average-{half_life}"][name]))
            # Steps that were left out are not averaged.
            average.optimization_step = state["step"] - state["skipped_steps"]
        self.step, self.skipped_steps, self.history = state["step"], state["skipped_steps"], state["history"]
        self.validation, self.best, self.run_id = state["validation"], state["best"], state["run_id"]
        self.bad_images = state["bad_images"]
        # Checkpoints of earlier versions do not say.
        self.hardware = state.get("hardware", [])
        return state


def _check_same_run(path: Path, state: Mapping[str, Any], config: TrainingConfig, facts: dict[str, Any]) -> None:
    # JSON has no tuples, so both sides go through it.
    now = json.loads(json.dumps(asdict(config)))
    # A setting that came later was at its default.
    defaults = json.loads(json.dumps({f.name: f.default for f in fields(config)}))
    then = {**defaults, **state["config"]}
    may_change = settings_with(type(config), "may_change")
    compared = [name for name in now if name not in may_change]
    changed = [f"{name} {then.get(name)} (now {now[name]})" for name in compared if then.get(name) != now[name]]
    changed += [
        f"{name} {state['facts'].get(name)} (now {value})"
        for name, value in facts.items()
        if state["facts"].get(name) != value
    ]
    if changed:
        raise UserError(
            f"{path} belongs to a run with {', '.join(changed)}; go back to that, choose another output_dir, or pass "
            "--overwrite_output_dir to start again"
        )
