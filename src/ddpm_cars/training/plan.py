"""What a run will take, said before it starts: what was chosen, the memory and the time to expect."""

import math
import textwrap
import time
from datetime import datetime, timedelta
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from ddpm_cars.data.row_decoding import measure
from ddpm_cars.data.stream import ShardStream
from ddpm_cars.runtime.console import count
from ddpm_cars.runtime.hardware import free_memory, resident_memory
from ddpm_cars.training.choices import BY_DEVICE, USUAL
from ddpm_cars.training.optimizer import name_and_tensors_per_weight
from ddpm_cars.training.run import Run
from ddpm_cars.training.state import TrainState

# A forward pass is about a third of a step.
_FORWARD = 1 / 3
_WIDTH = 100
_MIN_STEPS, _MIN_SECONDS, _MAX_SECONDS = 3, 1.0, 10.0


def describe(run: Run, state: TrainState, found: Path | None) -> list[str]:
    """Return the plan of a run that continues from the checkpoint `found`, or begins anew, as lines of text."""
    config = run.config
    lines = _image_lines(run, state)
    if run.held_out is not None:
        lines.append(f"held out     {count(len(run.held_out), 'image')} of {config.validation_split}")
    passes = ""
    if run.images is not None:
        number = run.total_steps * run.global_batch_size / len(run.images.images)
        passes = f", {number:,.1f} passes over the images"
    flips = "flipped at random" if config.random_flip else "never flipped"
    num_weights = sum(p.numel() for p in state.unet.parameters())
    name = config.model_config or f"preset {config.preset}"
    return [
        *lines,
        f"prepared     {config.resize}, {flips}{', made grey' if run.num_channels == 1 else ''}",
        f"network      {num_weights:,} parameters ({name}), {_hardware(run)}",
        f"a step       {_batch(run)}",
        f"steps        {state.step:,} done, {run.total_steps:,} in all{passes}",
        *_chosen_lines(run, found is not None),
        *_size_lines(run, state),
        f"begins       {'anew' if found is None else f'from {found}'}",
    ]


def duration(seconds: float) -> str:
    """Return a time in the unit that people would use: "40 seconds", "12 minutes", "3.5 hours"."""
    if seconds < 90:
        return count(max(1, round(seconds)), "second")
    if seconds < 90 * 60:
        return count(round(seconds / 60), "minute")
    return f"{seconds / 3600:.1f} hours" if seconds < 36 * 3600 else f"{seconds / 86400:.1f} days"


class Stopwatch:
    """Times the first steps of a run, without the very first, in which memory is found and kernels are chosen.

    Args:
        run: The run.
        state: Its state, which counts the steps.

    Attributes:
        is_done: Whether the seconds of a step have become known.
    """

    def __init__(self, run: Run, state: TrainState):
        self.run = run
        self.state = state
        self._first = state.step + 1
        self._since = math.inf
        self.is_done = False

    def look(self) -> float | None:
        """Look at the clock after a step, and return the seconds of a step, once: when they have become known."""
        num_steps = self.state.step - self._first
        if num_steps == 0:
            self._since = self._now()
        if num_steps <= 0 or self.is_done:
            return None
        passed = time.perf_counter() - self._since
        if passed < _MAX_SECONDS and (num_steps < _MIN_STEPS or passed < _MIN_SECONDS):
            return None
        self.is_done = True
        return (self._now() - self._since) / num_steps

    def leave_out(self, seconds: float) -> None:
        """Do not count time in which no steps were taken."""
        self._since += seconds

    def _now(self) -> float:
        # The device may not be done with the steps that it was given.
        if self.run.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()


def time_line(run: Run, step: int, seconds_per_step: float, now: datetime | None = None) -> str:
    """Return how long the steps after `step` will take, and with `now` when that will be over."""
    num_steps = run.total_steps - step
    beside = _seconds_beside_steps(run, step, seconds_per_step)
    seconds = num_steps * seconds_per_step
    speed = f"{seconds_per_step:.2g} s a step" if seconds_per_step < 10 else f"{seconds_per_step:.0f} s a step"
    line = f"time         about {duration(seconds)} for {count(num_steps, 'step')} at {speed}"
    line += f", and {duration(beside)} for grids and measurements" if beside >= 1 else ""
    if now is not None:
        end = now + timedelta(seconds=seconds + beside)
        line += f"; done at about {end:%H:%M}" + ("" if end.date() == now.date() else f" on {end:%A, %d %B}")
    cures = _faster(run) if run.device.type == "cpu" and seconds + beside > 3600 else []
    return line + (f"; {' or '.join(cures)} takes less" if cures else "")


def _faster(run: Run) -> list[str]:
    config = run.config
    cures = ["--preset tiny"] if config.model_config is None and config.preset != "tiny" else []
    cures += ["--resolution 32"] if config.resolution > 32 else []
    return cures + ([f"--max_train_steps {run.total_steps // 2}"] if run.total_steps > 2_000 else [])


def _seconds_beside_steps(run: Run, step: int, seconds_per_step: float) -> float:
    """Return about how long the grids and the measurements after a step will take."""
    config, rest = run.config, run.total_steps - step
    per_image = _FORWARD * seconds_per_step * run.accelerator.num_processes / run.global_batch_size
    num_grids = 1 + ((rest - 1) // config.save_images_steps if config.save_images_steps else 0)
    images = num_grids * config.eval_batch_size * (config.num_inference_steps or config.num_train_timesteps)
    if run.held_out is not None:
        num_networks = 1 + len(config.ema_half_life_steps if config.use_ema else ())
        times = -(-rest // config.validation_steps) if config.validation_steps else 1
        images += times * num_networks * len(run.held_out) // run.accelerator.num_processes
    return per_image * images


def _image_lines(run: Run, state: TrainState) -> list[str]:
    config, source = run.config, state.source
    classes = [f"classes      {len(run.class_names)}: {', '.join(run.class_names[:8])}"] if run.class_names else []
    if isinstance(source, ShardStream):
        cost = measure(config, run.num_channels)
        return [
            f"images       streamed from {count(len(source.shards), 'shard')} of {config.dataset_name} in "
            f"{count(source.num_lanes, 'lane')}",
            f"per image    {cost['bytes_per_image']:,.0f} bytes to read, "
            f"{cost['decode_milliseconds_per_image']:.2f} ms of one core to decode",
            *classes,
        ]
    assert run.images is not None
    report = run.images.report
    num_bad, num_copied = len(report["bad_images"]), len(report["duplicates"])
    notes = [f", {num_bad:,} left out as bad"] if num_bad else []
    notes += [f", {num_copied:,} of which {'has' if num_copied == 1 else 'have'} copies"] if num_copied else []
    line = f"images       {len(run.images.images):,} at {config.resolution}x{config.resolution}{''.join(notes)}"
    reported = [f"report       {run.folder.image_report}"] if run.folder.image_report.exists() else []
    return [line, *reported, *classes]


def _hardware(run: Run) -> str:
    threads = f" with {count(torch.get_num_threads(), 'thread')}" if run.device.type == "cpu" else ""
    return f"on {run.device.type}{threads}, mixed_precision {run.hardware['mixed_precision']}"


def _batch(run: Run) -> str:
    num_processes, times = run.accelerator.num_processes, run.accumulation
    parts = [f"{run.batch_size} at a time"] if num_processes > 1 or times > 1 else []
    parts += [f"on each of {num_processes} processes"] if num_processes > 1 else []
    parts += [f"{times} times"] if times > 1 else []
    return count(run.global_batch_size, "image") + (f": {', '.join(parts)}" if parts else "")


def _chosen_lines(run: Run, continues: bool) -> list[str]:
    """Return what was chosen because the user did not, by what, and what changes it."""
    config = run.config
    without_effect = {"preset": config.model_config is not None, "validation_steps": run.held_out is None}
    usual = {name for name, value in USUAL.items() if getattr(config, name) == value}
    names = [name for name in vars(config) if name in run.chosen - usual and not without_effect.get(name)]
    if continues:
        parts = {"as before": names}
    else:
        of_device = [name for name in BY_DEVICE if name in names]
        device = "this CPU" if run.device.type == "cpu" else run.hardware["device"]
        parts = {f"for {device}": of_device, f"for {_length(run)}": [n for n in names if n not in of_device]}
    texts = [
        f"{reason}: {', '.join(f'{name} {_value(getattr(config, name))}' for name in part)}"
        for reason, part in parts.items()
        if part
    ]
    if texts and not continues:
        texts.append("give a flag of the same name to change one of these")
    lines = [line for text in texts for line in textwrap.wrap(text, _WIDTH, break_on_hyphens=False)]
    return [f"{'' if i else 'chosen':<13}{line}" for i, line in enumerate(lines)]


def _length(run: Run) -> str:
    if run.images is not None and "max_train_steps" in run.chosen:
        return count(len(run.images.images), "image")
    return count(run.total_steps, "step")


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _size_lines(run: Run, state: TrainState) -> list[str]:
    weights, num_averages = list(state.unet.parameters()), len(state.averages.tensors)
    # Of a network that is spread over processes each one holds a part.
    here = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in weights)
    optimizer, tensors_per_weight = name_and_tensors_per_weight(run.config)
    memory = 4 * here * (2 + tensors_per_weight + num_averages)
    disk = 4 * sum(p.numel() for p in weights) * (1 + tensors_per_weight + num_averages)
    activations = run.batch_size * run.activation_bytes_per_image
    to_come = memory - 4 * here * (1 + num_averages) + activations
    kept = f"weights, gradients, {optimizer}" + (f" and {count(num_averages, 'average')}" if num_averages else "")
    each = " a process" if run.accelerator.num_processes > 1 else ""
    return [
        f"memory       {_megabytes(memory + activations)}{each}{_besides(run, memory + activations - to_come)}: "
        f"{kept} {_megabytes(memory)}, activations {_megabytes(activations)}{_shortage(run, to_come)}",
        f"output       {run.folder.path}, a checkpoint is {_megabytes(disk)}",
    ]


def _besides(run: Run, here: float) -> str:
    """Return what the process has in memory besides, on a CPU, where all of it is in the same memory."""
    used = resident_memory() if run.device.type == "cpu" else None
    return "" if used is None else f" beside about {_megabytes(used - here)} of Python, its libraries and the images"


def _shortage(run: Run, num_bytes: float) -> str:
    """Return a warning if a run needs more memory than is free."""
    free = free_memory(run.device)
    if free is None or num_bytes <= free:
        return ""
    return f"; only {_megabytes(free)} are free: try --auto_find_batch_size, or a smaller --resolution or --preset"


def _megabytes(num_bytes: float) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"
