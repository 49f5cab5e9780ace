"""Checkpoints that are complete or absent, in safetensors and JSON."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ddpm_cars.runtime.files import atomic_path, remove

_NAME = re.compile(r"step-(\d{8})")

_MANIFEST = "manifest.json"

_FORMAT_VERSION = 1


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, torch.Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write `folder/step-NNNNNNNN`: a safetensors file per group, a state.json and a manifest of sizes and hashes.

    Args:
        folder: Where the checkpoints of a run live.
        step: Optimiser steps done, below 10^8.
        tensors: Groups of named tensors.
        state: What JSON can hold.

    Returns:
        The checkpoint's path.

    Raises:
        OSError: If it cannot be written; what was there before is untouched.
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
        (temporary / "state.json").write_text(json.dumps({"step": step, **state}, indent=1), encoding="utf-8")
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
    return tensors, json.loads((path / "state.json").read_text(encoding="utf-8"))


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, oldest first."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if _NAME.fullmatch(path.name))


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


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the optimiser's tensors as "INDEX.NAME", with INDEX the position of the parameter."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": torch.as_tensor(value) for i, named in state.items() for name, value in named.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give an optimiser the tensors that `flatten_optimizer` returned; its hyper-parameters stay its own."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        i, name = key.split(".", 1)
        state.setdefault(int(i), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
