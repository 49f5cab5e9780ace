"""Command lines as people write them: switches alone, lists without brackets, diffusers' flags, slips of the pen."""

import difflib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ddpm_cars.config.fields import settings_with
from ddpm_cars.config.training import TrainCommandConfig

STOCK_FLAGS = {
    "center_crop": "give --resize crop",
    "dataloader_num_workers": "leave it out; images are decoded before the first step, or by threads with --streaming",
    "ema_max_decay": "give --ema_half_life_steps; 6931 is a decay of 0.9999",
    "enable_xformers_memory_efficient_attention": "leave it out; PyTorch's own fast attention is always on",
    "hub_token": "set HF_TOKEN, or log in with hf auth login",
    "local_rank": "leave it out; accelerate launch sets it",
    "logging_dir": "leave it out; --logger tensorboard writes to logs/ in --output_dir",
    "preserve_input_precision": "leave it out; images have 8 bits per channel here",
    "resume_from_checkpoint": "leave it out; the same command continues what it finds in --output_dir",
    "save_images_epochs": "give --save_images_steps, counted in steps",
    "save_model_epochs": "give --checkpointing_steps, counted in steps; the same command with --max_train_steps at a "
    "checkpoint makes a model of it",
    **{stock: f"give --{name}" for name, stock in settings_with(TrainCommandConfig, "stock").items()},
}
"""What to do instead of giving a flag of diffusers' train_unconditional.py that has another name or none here."""


def with_cures(message: str, names: Collection[str]) -> str:
    """Add to the message about settings that do not exist what to give instead.

    Args:
        message: What the parser says; a message about anything else is left as it is.
        names: The settings that exist.

    Returns:
        The message, with a clause for every setting in it that is one of diffusers' or resembles one that exists.
    """
    if message.lower().startswith("unrecognized arguments:"):
        unknown = re.findall(r"(?<!\S)--([\w-]+)", message)
    else:
        unknown = re.findall(r"Option '([\w-]+)' is not accepted", message)
    return "; ".join([message, *(f"--{name}: {cure}" for name in unknown if (cure := _cure(name, names)))])


def _cure(name: str, names: Collection[str]) -> str | None:
    stock = STOCK_FLAGS.get(name)
    # What a command cannot do is no cure for its command line.
    if stock is not None and set(re.findall(r"--(\w+)", stock)) <= set(names):
        return stock
    similar = difflib.get_close_matches(name, names, n=3, cutoff=0.75)
    return f"did you mean {' or '.join(f'--{other}' for other in similar)}?" if similar else None


def with_no_as_a_word(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Wrap a reader of YAML, to which `mixed_precision: no` says false, so that it is the choice "no"."""

    def read_text(text: str) -> Any:
        values = read(text)
        if isinstance(values, dict) and values.get("mixed_precision") is False:
            values["mixed_precision"] = "no"
        return values

    return read_text


def spell_out_switches(argv: Sequence[str], switches: Collection[str]) -> list[str]:
    """Let `--use_ema` alone stand for `--use_ema true`."""
    spelled = list(argv)
    for i, argument in enumerate(argv):
        value = argv[i + 1] if i + 1 < len(argv) else "--"
        if argument in switches and value.startswith("-"):
            spelled[i] = f"{argument}=true"
    return spelled


def gather_lists(argv: Sequence[str], lists: Mapping[str, bool]) -> list[str]:
    """Let `--class_labels red 2` stand for `--class_labels '["red", "2"]'`; True marks a list of texts."""
    gathered, rest = [], list(argv)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if flag not in lists:
            gathered.append(flag + equals + value)
            continue
        values = [value] if equals else []
        while rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        if values and values[0] != "null" and not values[0].startswith("["):
            # Not escaped: the pairs that JSON escapes some characters to are no characters to YAML.
            texts = (json.dumps(value, ensure_ascii=False) if lists[flag] else value for value in values)
            values = [f"[{', '.join(texts)}]"]
        gathered += [flag, *values]
    return gathered
