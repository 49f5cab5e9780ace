"""What to give instead of a setting that does not exist: a flag of diffusers' script, or a misspelt one."""

import difflib
import re
from collections.abc import Collection

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
    """Add what to give instead to a message of the parser about settings that are not among `names`."""
    if message.lower().startswith("unrecognized arguments:"):
        unknown = re.findall(r"(?<!\S)--([\w-]+)", message)
    else:
        unknown = re.findall(r"Option '([\w-]+)' is not accepted", message)
    return "; ".join([message, *(f"--{name}: {cure}" for name in unknown if (cure := _cure(name, names)))])


def _cure(name: str, names: Collection[str]) -> str | None:
    stock = STOCK_FLAGS.get(name)
    # A cure helps only if the command has the flags in it.
    if stock is not None and set(re.findall(r"--(\w+)", stock)) <= set(names):
        return stock
    similar = difflib.get_close_matches(name, names, n=3, cutoff=0.75)
    return f"did you mean {' or '.join(f'--{other}' for other in similar)}?" if similar else None
