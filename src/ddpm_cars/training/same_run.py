"""Whether a checkpoint belongs to the run that is to go on, and in words what is different where it does not."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ddpm_cars.config.fields import settings_with
from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.errors import UserError
from ddpm_cars.runtime.console import count, warn

NUM_IMAGES, DECODER = "num_images", "decoder"
"""The facts that are said and not compared. Checkpoints of earlier versions do not have them."""

_MAX_SHOWN = 8  # Items of a list.

Values = Mapping[str, Any]


def check_same_run(path: Path, values: Values, config: TrainingConfig, facts: Values) -> None:
    """Raise UserError if a checkpoint belongs to a run with other settings, images, network or batch.

    Args:
        path: The checkpoint.
        values: What it holds, as `TrainState.values` returns it.
        config: The settings now.
        facts: The facts now, as `TrainState` has them.
    """
    # JSON has no tuples, so both sides go through it.
    now = json.loads(json.dumps(asdict(config)))
    # Where a checkpoint does not have a setting, which came later, the run had its default.
    defaults = json.loads(json.dumps({f.name: f.default for f in fields(config)}))
    then = {**defaults, **values["config"]}
    may_change = settings_with(type(config), "may_change")
    changed = [name for name in now if name not in may_change and then.get(name) != now[name]]
    # What is given comes before what is left at its default, which may be meant as well.
    changed.sort(key=lambda name: now[name] == defaults[name])
    of_now = {name: f"{_said(now[name])}{', the default' * (now[name] == defaults[name])}" for name in changed}
    before = values["facts"]
    differ = {name for name in facts if name not in (NUM_IMAGES, DECODER) and before.get(name) != facts[name]}
    parts = (
        [f"with {', '.join(f'{name} {_said(then.get(name))} (now {of_now[name]})' for name in changed)}"]
        if changed
        else []
    )
    reasons = ["its steps so far were taken with the settings that it began with"] if changed else []
    if not differ.isdisjoint({"pictures", "shards"}):
        # Another size or split makes other images of the same files.
        decide = {"validation_split", "class_conditional", *(field.name for field in fields(ImageConfig))}
        explained = not decide.isdisjoint(changed)
        found = list(_other_images(then, now, before, facts, explained))
        parts += found
        reasons += ["it can be repeated exactly only on its own images"] if found else []
    if "network" in differ:
        parts.append(_other_network(then, now))
        reasons.append("its weights fit no other network")
    if "global batch size" in differ:
        parts.append(f"with {before.get('global batch size')} images a step (now {facts['global batch size']})")
        reasons.append("the order of its images follows from their number in a step")
    if parts:
        raise UserError(
            f"{path} belongs to a run {', and '.join(parts)}, which cannot change while it goes on, because "
            f"{', and '.join(reasons)}; go back to that, choose another --output_dir, or pass --overwrite_output_dir "
            "to start again"
        )


def training_changes(values: Values, config: TrainingConfig, total_steps: int) -> list[dict[str, Any]]:
    """Return what a run that goes on does otherwise from this step on: {"step", "name", "before", "after"}.

    The length of the run is among it where the learning rate follows it.

    Args:
        values: What the checkpoint holds.
        config: The settings now.
        total_steps: The length of the run now.
    """
    then = {**values["config"], "max_train_steps": values["total_steps"]}
    now = {**asdict(config), "max_train_steps": total_steps}
    names = [name for name in settings_with(type(config), "changes_training") if name in then]
    if config.lr_scheduler in ("linear", "cosine"):
        names.append("max_train_steps")
    step = values["step"]
    return [
        {"step": step, "name": name, "before": then[name], "after": now[name]}
        for name in names
        if then[name] != now[name]
    ]


def say_changes(path: Path, changes: Sequence[Values], rate_before: float, rate_now: float, total_steps: int) -> None:
    """Say what a run does otherwise from a step on, with the learning rate of the steps before and after.

    Raises UserError if no step is left that the settings could change.
    """
    if not changes:
        return
    step = changes[0]["step"]
    listed = ", ".join(f"{change['name']} {change['before']} -> {change['after']}" for change in changes)
    if step < total_steps:
        rates = "stays" if rate_before == rate_now else f"was {rate_before:.4g} and is now"
        warn(f"from step {step:,} on: {listed}; the learning rate {rates} {rate_now:.4g}")
    elif any(change["name"] != "max_train_steps" for change in changes):
        raise UserError(
            f"{path} is at step {step:,} of {total_steps:,}, so no step is left that {listed} could change; give a "
            "larger max_train_steps, or leave that out"
        )


def _said(value: Any) -> str:
    """Return a value of a setting as a message shows it: the betas of a schedule are too many."""
    return f"{len(value)} other numbers" if isinstance(value, list) and len(value) > _MAX_SHOWN else str(value)


def say_other_decoder(before: Values, facts: Values, step: int) -> None:
    """Warn if a run that streams its images goes on with a decoder that gives other colours."""
    if "shards" in facts and before.get(DECODER) != facts[DECODER]:
        warn(
            "the run began with an earlier version, which took no notice of the colour profiles of images: from step "
            f"{step:,} on, any image that has one is converted to sRGB"
        )


def _other_images(then: Values, now: Values, before: Values, facts: Values, explained: bool) -> Iterator[str]:
    num_then, num_now = before.get(NUM_IMAGES), facts.get(NUM_IMAGES)
    source_then, source_now = (values.get("train_data_dir") or values.get("dataset_name") for values in (then, now))
    if source_then != source_now:
        yield f"on {source_then}{_number(num_then)}, while these are {source_now}{_number(num_now)}"
    elif not explained:
        numbers = "" if num_then in (None, num_now) else f" ({num_then:,} then, {num_now:,} now)"
        earlier = ", or with an earlier version, which took no notice of the colour profiles of images"
        has_other_decoder = not numbers and before.get(DECODER) != facts.get(DECODER)
        yield f"that began when {source_now} had other images{numbers}{earlier if has_other_decoder else ''}"


def _number(num_images: Any) -> str:
    return "" if num_images is None else f" ({count(num_images, 'image')})"


def _other_network(then: Values, now: Values) -> str:
    names = [str(values.get("model_config") or f"preset {values.get('preset')}") for values in (then, now)]
    return "with another network" + (f" ({names[0]}, now {names[1]})" if names[0] != names[1] else "")
