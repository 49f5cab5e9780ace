"""What changes while a run trains: all of it, and so what a checkpoint holds."""

import hashlib
import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from diffusers import UNet2DModel
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from ddpm_cars.data.cache import DECODER_VERSION
from ddpm_cars.data.stream import ShardStream
from ddpm_cars.runs.checkpoints import RAW
from ddpm_cars.runtime.console import warn
from ddpm_cars.training.averages import Averages
from ddpm_cars.training.batches import BatchOrder, MemorySource, has_room
from ddpm_cars.training.log import Log
from ddpm_cars.training.network import can_capture, place_network, wrap_network
from ddpm_cars.training.optimizer import flatten_optimizer, make_learning_rate, make_optimizer, restore_optimizer
from ddpm_cars.training.run import Run
from ddpm_cars.training.same_run import (
    DECODER,
    NUM_IMAGES,
    check_same_run,
    say_changes,
    say_other_decoder,
    training_changes,
)


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


class TrainState:
    """The state of a run, at first the one before its first step, which the seed decides."""

    def __init__(self, run: Run):
        self.config, self.accelerator, self.total_steps = run.config, run.accelerator, run.total_steps
        unet, self.dropout_seeds = place_network(run)
        self.source, facts = _open_source(run)
        self.captured = can_capture(run, self.dropout_seeds)  # whether a step is captured in a graph
        optimizer = make_optimizer(run.config, unet, run.device, self.captured)
        self.model, self.optimizer = wrap_network(run, unet, optimizer)
        # Spread over processes, the network has other weights than before.
        self.unet: UNet2DModel = run.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        self.averages = Averages(run.config, self.unet, self.captured)
        self.log = Log(run.device)
        network = {name: value for name, value in self.unet.config.items() if not name.startswith("_")}
        network_sha256 = hashlib.sha256(json.dumps(network, sort_keys=True).encode()).hexdigest()
        # What the run is, besides its settings: images, network, batch. They may not change.
        self.facts = {**facts, "network": network_sha256[:16], "global batch size": run.global_batch_size}
        self.facts[DECODER] = DECODER_VERSION
        self.run_id = uuid.uuid4().hex[:8]  # what trackers know the run by
        self.step = self.skipped_steps = 0
        self.bad_images: list[dict[str, str]] = []  # {"path", "reason"}
        self.changes: list[dict[str, Any]] = []  # `training_changes` of all parts of the run
        self.hardware: list[dict[str, Any]] = []  # `Run.hardware`, "num_threads", "steps", "seconds"
        self.max_threads: int | None = None  # of a process, where no other program uses the CPU

    @property
    def num_updates(self) -> int:
        """Return how often the weights were updated: once a step that was not left out."""
        return self.step - self.skipped_steps

    def count_time(self, hardware: Mapping[str, Any], seconds_per_step: float) -> None:
        """Credit some hardware with the steps since the last call, also those that a stop has left uncounted."""
        if not self.hardware or not hardware.items() <= self.hardware[-1].items():
            self.hardware.append({**hardware, "steps": 0, "seconds": 0.0})
        steps = self.step - sum(part["steps"] for part in self.hardware)
        self.hardware[-1]["steps"] += steps
        self.hardware[-1]["seconds"] = round(self.hardware[-1]["seconds"] + steps * seconds_per_step, 3)

    def chosen_average(self) -> str:
        """Return the average to sample with: the best at the last measurement, else that of the first half-life."""
        names = list(self.averages.tensors) or [RAW]
        if not self.log.validation:
            return names[0]
        last = self.log.validation[-1]["eps_mse"]
        return min(names, key=lambda name: last[name] if math.isfinite(last[name]) else math.inf)

    def weights(self, average: str) -> dict[str, torch.Tensor]:
        """Return a network's state dict with one of the averages in it, or the weights themselves for `RAW`.

        Where tensors are spread over processes, all of them have to ask.
        """
        tensors = {name: _whole(tensor.detach()) for name, tensor in self.unet.state_dict().items()}
        return tensors if average == RAW else {**tensors, **self._average(average)}

    def _average(self, name: str) -> dict[str, torch.Tensor]:
        names = [parameter for parameter, _ in self.unet.named_parameters()]
        return dict(zip(names, map(_whole, self.averages.tensors[name]), strict=True))

    def forget_gathered_weights(self) -> None:
        """Make a network that is spread over processes see that its weights have been replaced."""
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def find_bad_images(self) -> list[dict[str, str]]:
        """Return the images that any process could not decode since the last call. Every process has to call this."""
        known = {image["path"] for image in self.bad_images}
        found = {image["path"]: image for part in gather_object([self.source.bad_images]) for image in part}
        new = [found[path] for path in sorted(found) if path not in known]
        self.bad_images += new
        return new

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """Return all tensors of a checkpoint, in groups, whole. Every process has to call this."""
        optimizer = {name: _whole(tensor) for name, tensor in flatten_optimizer(self.optimizer).items()}
        unet = self.weights(RAW)
        averages = {f"average-{name}": unet | self._average(name) for name in self.averages.tensors}
        return {"unet": unet, "optimizer": optimizer, **averages}

    def values(self) -> dict[str, Any]:
        """Return what a checkpoint holds besides tensors, as JSON. Every process has to call this."""
        source: dict[str, Any] = {}
        for part in gather_object([self.source.state_dict(self.step)]):
            for name, value in part.items():
                source.setdefault(name, {}).update(value)
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "config": asdict(self.config),
            "facts": self.facts,
            "total_steps": self.total_steps,
            "skipped_steps": self.skipped_steps,
            "history": self.log.history,
            "validation": self.log.validation,
            "best": self.log.best,
            "bad_images": self.bad_images,
            "hardware": self.hardware,
            "max_threads": self.max_threads,
            "run_id": self.run_id,
            "changes": self.changes,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "source": source,
            "sums": self.accelerator.gather(self.log.sums[None]).tolist(),
        }

    def load(self, path: Path, tensors: Mapping[str, Mapping[str, torch.Tensor]], values: Mapping[str, Any]) -> None:
        """Continue from what `tensors` and `values` returned. Every process has to call this.

        Raises UserError, which names `path`, if it belongs to a run with other settings, images, network or batch.
        """
        check_same_run(path, values, self.config, self.facts)
        changes = self._find_changes(path, values)
        self._load_tensors(tensors)
        if self.accelerator.scaler is not None and values["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(values["scaler"])
        self.source.load_state_dict(values["source"])
        self.log.history, self.log.validation, self.log.best = values["history"], values["validation"], values["best"]
        self.log.share_sums(torch.tensor(values["sums"], dtype=torch.float64), self.accelerator)
        self.step, self.skipped_steps = values["step"], values["skipped_steps"]
        _say_other_precision(values["config"]["mixed_precision"], self.config.mixed_precision)
        say_other_decoder(values["facts"], self.facts, self.step)
        self.bad_images, self.run_id = values["bad_images"], values["run_id"]
        # Checkpoints of earlier versions do not say.
        self.hardware, self.max_threads = values.get("hardware", []), values.get("max_threads")
        if self.step > self.total_steps:
            warn(f"the run is at step {self.step:,} already, beyond {self.total_steps:,}")
        # Checkpoints of earlier versions have none.
        self.changes = [*values.get("changes", []), *changes]

    def _find_changes(self, path: Path, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return what trains otherwise from here on, and say so."""
        step, now, changes = values["step"], self.config, training_changes(values, self.config, self.total_steps)
        then = replace(now, **{c["name"]: c["before"] for c in changes})
        # The last step that was taken, and the next one.
        rates = make_learning_rate(then, values["total_steps"]), make_learning_rate(now, self.total_steps)
        say_changes(path, changes, rates[0](max(0, step - 1)), rates[1](step), self.total_steps)
        return changes if step < self.total_steps else []

    def _load_tensors(self, tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        named = dict(self.unet.named_parameters())
        weights = {k: _placed_like(named[k], v) if k in named else v for k, v in tensors["unet"].items()}
        self.unet.load_state_dict(weights)
        parameters = list(named.values())
        moments = {k: _placed_like(parameters[int(k.split(".")[0])], v) for k, v in tensors["optimizer"].items()}
        restore_optimizer(self.optimizer, moments)
        for half_life, averages in self.averages.tensors.items():
            for average, name in zip(averages, named, strict=True):
                average.copy_(_placed_like(average, tensors[f"average-{half_life}"][name]))


def _open_source(run: Run) -> tuple[MemorySource | ShardStream, dict[str, Any]]:
    """Open where images come from, and say what identifies it."""
    config, images = run.config, run.images
    if images is None:
        stream = ShardStream(config, run.num_channels, run.global_batch_size, run.rows)
        return stream, {"shards": stream.fingerprint[:16]}
    order = BatchOrder(len(images.images), run.global_batch_size, config.seed)
    # Where a batch that just fits has been looked for, there is no memory left.
    is_tight = config.auto_find_batch_size or run.batch_size < config.train_batch_size
    kept = not is_tight and has_room(run.device, images.images.nbytes)
    source = MemorySource(images, order, run.rows, run.device if kept else None)
    return source, {"pictures": images.sha256[:16], NUM_IMAGES: len(images.images)}


def _say_other_precision(before: str | None, now: str) -> None:
    """Warn if a run goes on in another precision; runs of earlier versions may not say theirs."""
    if before is not None and before != now:
        warn(
            f"mixed_precision was {before} and is {now} now: the run goes on, but not to the same bits; "
            f"--mixed_precision {before} keeps it"
        )
