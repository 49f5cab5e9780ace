"""Checkpoints that are complete or absent, in safetensors and JSON."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ddpm_cars.errors import UserError
from ddpm_cars.runtime.console import say, warn
from ddpm_cars.runtime.files import atomic_path, remove
from ddpm_cars.runtime.folders import delete_empty
from ddpm_cars.runtime.processes import on_main
from ddpm_cars.training.state import TrainState

_NAME = re.compile(r"step-(\d{8})")
_MANIFEST, _STATE = "manifest.json", "state.json"
_FORMAT_VERSION = 1


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, torch.Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write `folder/step-NNNNNNNN`: a safetensors file per group, a state.json and a manifest of sizes and hashes.

    Raises OSError if it cannot be written; earlier checkpoints are untouched.
    """
    path = folder / f"step-{step:08d}"
    with atomic_path(path) as temporary:
        temporary.mkdir()
        for group, named in tensors.items():
            on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
            try:
                save_file(on_cpu, temporary / f"{group}.safetensors")
            except SafetensorError as error:
                raise OSError(str(error)) from error
        (temporary / _STATE).write_text(json.dumps({"step": step, **state}, indent=1), encoding="utf-8")
        files = {file.name: _size_and_hash(file) for file in sorted(temporary.iterdir())}
        manifest = {"format_version": _FORMAT_VERSION, "files": files}
        (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return path


def _size_and_hash(file: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}


def find_damage(path: Path) -> str | None:
    """Compare a checkpoint with its manifest and return what is wrong with it, or None if it is complete."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        if manifest["format_version"] != _FORMAT_VERSION:
            return f"its format is version {manifest['format_version']}, this program reads {_FORMAT_VERSION}"
        for name, expected in manifest["files"].items():
            if _size_and_hash(path / name) != expected:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it cannot be read: {error}"
    return None


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Read what `save_checkpoint` wrote: the groups of tensors, on the CPU, and the state."""
    tensors = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
    return tensors, json.loads((path / _STATE).read_text(encoding="utf-8"))


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, oldest first."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if _NAME.fullmatch(path.name))


def newest_values(folder: Path) -> dict[str, Any] | None:
    """Return the state of the newest checkpoint that can be read, without its tensors; None if there is none."""
    for path in reversed(list_checkpoints(folder)):
        try:
            values: dict[str, Any] = json.loads((path / _STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        # What is damaged is reported when the checkpoints are read in full.
        if values.keys() >= {"config", "facts", "total_steps"}:
            return values
    return None


def newest_complete(folder: Path) -> tuple[Path | None, dict[Path, str]]:
    """Return the newest complete checkpoint, or None, and the newer ones that are not, each with what is wrong."""
    damaged: dict[Path, str] = {}
    for path in reversed(list_checkpoints(folder)):
        damage = find_damage(path)
        if damage is None:
            return path, damaged
        damaged[path] = damage
    return None, damaged


def delete_old_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, 1 or more."""
    for path in list_checkpoints(folder)[:-keep]:
        # Under another name first: what is half deleted must not look like a checkpoint.
        doomed = path.with_name(f".{path.name}.old")
        remove(doomed)
        os.replace(path, doomed)
        remove(doomed)


def delete_leftovers(folder: Path) -> None:
    """Delete what a crash left half written or half deleted in a folder of checkpoints."""
    for pattern in (".step-*.tmp", ".step-*.old"):
        for path in folder.glob(pattern):
            remove(path)


def last_safe(folder: Path) -> str:
    """Say in words which checkpoint there is to go back to."""
    good, _ = newest_complete(folder)
    return "there is no checkpoint yet" if good is None else f"the last complete checkpoint is {good}"


class Checkpointer:
    """Writes the state of a run where a disk may fail, and reads it where a crash may have struck."""

    def __init__(self, folder: Path, state: TrainState, total_limit: int | None):
        self.folder = folder
        self.state = state
        self.total_limit = total_limit  # None keeps all
        self.saved_step: int | None = None  # of the checkpoint that was written or read last

    def clear(self, start_again: bool) -> None:
        """Delete what a crash left half written and, to start again, all checkpoints."""
        delete_leftovers(self.folder)
        if start_again:
            for path in list_checkpoints(self.folder):
                shutil.rmtree(path)
            # What else lies in the folder is not ours to delete.
            delete_empty([self.folder])

    def resume(self) -> Path | None:
        """Continue from the newest complete checkpoint and return its path, None if there is none.

        Every process has to call this. Raises UserError if it belongs to another run, or none of them is complete.
        """
        found, damaged = newest_complete(self.folder)
        for path, damage in damaged.items():
            warn(f"{path} is damaged and left out: {damage}")
        if found is None and damaged:
            raise UserError(
                f"none of the checkpoints in {self.folder} is complete; put a complete one there, or pass "
                "--overwrite_output_dir to start again"
            )
        if found is None:
            return None
        self.state.load(found, *load_checkpoint(found))
        self.saved_step = self.state.step
        say(f"continuing from {found}")
        return found

    def save(self) -> bool:
        """Write a checkpoint, then delete those beyond the limit; return whether the disk took it.

        A disk that fails does not end a run: it is warned of, and older checkpoints are untouched. Every process has
        to call this; the main one writes, and all learn whether it could.
        """
        step, tensors, values = self.state.step, self.state.tensors(), self.state.values()

        def write() -> None:
            save_checkpoint(self.folder, step, tensors, values)
            if self.total_limit is not None:
                delete_old_checkpoints(self.folder, self.total_limit)

        try:
            on_main(write)
        except OSError as error:
            warn(
                f"the checkpoint of step {step:,} cannot be written ({error}); {last_safe(self.folder)}; "
                "training goes on"
            )
            return False
        self.saved_step = step
        return True
