"""What the settings that are left to the machine (`AUTO`) become: by the device, the images and the length of the run.

docs/training.md has these rules as a table.
"""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch

from ddpm_cars.config.fields import AUTO
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.runtime.console import count
from ddpm_cars.runtime.hardware import default_precision, device_name, fast_precision, launcher_precision

Config = TypeVar("Config", bound=TrainingConfig)

# The most and the fewest steps of a run whose length is left to the machine, which takes 100 passes between them.
_CPU_STEPS, _OTHER_STEPS, _NUM_PASSES = (2_000, 8_000), (10_000, 100_000), 100
_FEW_IMAGES = 100
BY_DEVICE = ("preset", "resolution", "mixed_precision", "train_batch_size", "learning_rate")
"""The settings that follow the device; the others follow the length of the run."""
USUAL = {"lr_scheduler": "cosine", "max_grad_norm": 1.0}
"""The settings that follow nothing: they are these, unless a run goes on that began with others."""


def left_to_the_machine(config: TrainingConfig) -> set[str]:
    """Return the names of the settings that the user has not decided."""
    names = {f.name for f in fields(config) if f.default == AUTO and getattr(config, f.name) == AUTO}
    return names | ({"max_train_steps"} if config.max_train_steps is None and config.num_epochs is None else set())


def choose_for_device(config: Config, device: torch.device) -> Config:
    """Choose what can be chosen before the images are known: network, size, precision and learning rate."""
    on_cpu = device.type == "cpu"
    config = _fill(config, resolution=32 if on_cpu else 64, mixed_precision=default_precision(device))
    config = _fill(config, preset="tiny" if on_cpu else "32" if config.resolution <= 32 else "64")
    # docs/experiments.md: at 0.001 and at 0.004, tiny is worse by ten times what chance does.
    is_tiny = config.preset == "tiny" and config.model_config is None
    return _fill(config, learning_rate=0.002 if is_tiny else 1e-4, **USUAL)


def choose_for_length(config: Config, device: torch.device, num_images: int | None, num_processes: int = 1) -> Config:
    """Choose the rest: the batch, the steps, and what is counted in steps.

    Args:
        config: The settings, with those that `choose_for_device` chooses.
        device: What the run computes on.
        num_images: Images to train on; None if they are streamed, and nobody knows.
        num_processes: How many processes take part in a step.
    """
    batches = config.gradient_accumulation_steps * num_processes
    config = _fill(config, train_batch_size=_batch_size(config, device, num_images, batches))
    if config.max_train_steps is None:
        global_batch_size = config.train_batch_size * batches
        config = replace(
            config, max_train_steps=_steps(config, device, num_images, global_batch_size), num_epochs=None
        )
    steps, T = config.max_train_steps, config.num_train_timesteps
    assert steps is not None
    return _fill(
        config,
        lr_warmup_steps=min(500, steps // 20),
        # A cosine schedule averages by itself at its end, where a longer memory is only older (docs/experiments.md).
        ema_half_life_steps=(_between(1, steps // 20, 7_000),),
        logging_steps=_between(1, steps // 40, 50),
        **_intervals(steps) | ({"validation_steps": None} if config.validation_split is None else {}),
        # With these, all grids of a run with batches of 8 together take about a tenth of its time.
        num_inference_steps=min(T, _between(20, steps // 40, 250)),
    )


def choose_as_before(
    config: Config, checkpoint: Mapping[str, Any], device: torch.device, num_processes: int
) -> Config:
    """Choose what the run chose whose checkpoint is continued, so that the same command goes on anywhere.

    Only the precision follows the device when that is another one, and images per process follow their number.

    Args:
        config: The settings that are given now.
        checkpoint: The values of the checkpoint, as `TrainState.values` returns them.
        device: What the run computes on now.
        num_processes: How many processes take part in a step now.
    """
    before, given = checkpoint["config"], left_to_the_machine(config)
    taken = {name: before[name] for name in (given & before.keys()) - {"max_train_steps"}}
    if config.split_folders is None:
        # Earlier versions left out what is beside splits.
        taken["split_folders"] = before.get("split_folders", True)
    if (taken.get("num_inference_steps") or 0) > config.num_train_timesteps:
        # Another number of timesteps makes another run, which the check of the checkpoint says.
        del taken["num_inference_steps"]
    if "mixed_precision" in given:
        taken["mixed_precision"] = _precision_to_go_on_with(checkpoint, device)
    if "train_batch_size" in given:
        size = checkpoint["facts"]["global batch size"] / (config.gradient_accumulation_steps * num_processes)
        # Where it cannot be split evenly, the check of the checkpoint says so.
        taken["train_batch_size"] = max(1, int(size))
    # Earlier versions recorded the passes alone, and counted each without its last, partial batch.
    has_same_passes = before.get("max_train_steps") is None and config.num_epochs == before.get("num_epochs")
    if config.max_train_steps is None and (config.num_epochs is None or has_same_passes):
        taken |= {"max_train_steps": checkpoint["total_steps"], "num_epochs": None}
    return replace(config, **taken)


def _precision_to_go_on_with(checkpoint: Mapping[str, Any], device: torch.device) -> str:
    # Runs of earlier versions without a precision of their own had float32.
    before, parts = checkpoint["config"].get("mixed_precision") or "no", checkpoint.get("hardware", [])
    has_moved = parts and parts[-1]["device"] != device_name(device)
    return launcher_precision() or (fast_precision(device) if has_moved else before)


def _batch_size(config: TrainingConfig, device: torch.device, num_images: int | None, batches: int) -> int:
    if device.type == "cpu":
        size = 16 if config.mixed_precision == "bf16" else 8
    else:
        size = 8 if config.preset == "tiny" and config.model_config is None else 64
    while num_images is not None and size > 1 and size * batches > num_images:
        size //= 2
    return size


def _steps(config: TrainingConfig, device: torch.device, num_images: int | None, global_batch_size: int) -> int:
    fewest, most = _CPU_STEPS if device.type == "cpu" else _OTHER_STEPS
    if num_images is None:
        return most
    steps = math.ceil((config.num_epochs or _NUM_PASSES) * num_images / global_batch_size)
    return steps if config.num_epochs is not None else _between(fewest, steps, most)


def _intervals(steps: int) -> dict[str, Any]:
    return {
        "checkpointing_steps": _between(1, steps // 5, 500),
        # The same where the run is short: it may be continued.
        "save_images_steps": _between(100, steps // 5, 2_000),
        "validation_steps": _between(1, steps // 10, 1_000),
    }


def _between(least: int, value: int, most: int) -> int:
    return min(max(value, least), most)


def _fill(config: Config, **choices: Any) -> Config:
    """Return a config with the choices for those of its settings that are `AUTO`."""
    return replace(config, **{name: value for name, value in choices.items() if getattr(config, name) == AUTO})


def length_warnings(config: TrainingConfig, chosen: set[str], num_images: int | None, global_batch: int) -> list[str]:
    """Return a line, each with its cure, for few images, and for every setting of the user that does not fit.

    Args:
        config: The settings, with all choices made.
        chosen: The names of those that the user has left to the machine.
        num_images: Images to train on; None if they are streamed.
        global_batch: Images of a step.
    """
    steps, warnings = config.max_train_steps, []
    assert steps is not None
    if "lr_warmup_steps" not in chosen and config.lr_scheduler != "constant" and config.lr_warmup_steps >= steps:
        warnings.append(
            f"lr_warmup_steps is {config.lr_warmup_steps:,} and the run has {steps:,} steps, so the learning rate "
            f"never arrives at {config.learning_rate:g}; leave lr_warmup_steps out, or train longer"
        )
    # The config.yaml of a run gives what was chosen, which is no mistake of anybody.
    values = {
        name: getattr(config, name)
        for name, usual in _intervals(steps).items()
        if name not in chosen and getattr(config, name) not in (None, usual)
    }
    long = [f"{name} is {value:,}" for name, value in values.items() if value > steps]
    if long:
        warnings.append(
            f"{' and '.join(long)}, and the run has {steps:,} steps, so that happens only at its end; "
            "give a smaller number, or leave it out"
        )
    if num_images is not None and global_batch > num_images and "train_batch_size" not in chosen:
        warnings.append(
            f"a step takes {global_batch} images and there are only {num_images}, so it sees some of them more than "
            "once; a smaller train_batch_size avoids that"
        )
    if num_images is not None and num_images < _FEW_IMAGES:
        warnings.append(
            f"with {count(num_images, 'image')} the network will mostly learn to repeat them; more images help most"
        )
    return warnings
