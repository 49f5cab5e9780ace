"""The files of a checkpoint: complete or absent, in safetensors and JSON, and at the same time a saved pipeline.

Diffusers loads a checkpoint's folder as a pipeline. The weights to sample with are those of the pipeline, and the
others lie beside them as its variants: "raw" the weights themselves, "ema_N" the average with a half-life of N steps.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ddpm_cars.runs.run_folder import MANIFEST, STATE, list_checkpoints
from ddpm_cars.runtime.files import atomic_path, remove

RAW = "raw"
"""The name of the weights themselves among their averages."""
OPTIMIZER = "optimizer"
"""The name of the tensors of the optimiser, which a model does not need."""
_FORMAT_VERSION = 2
_AVERAGE = "average-"  # What the name of a group of averaged weights begins with.
_EMA = "ema_"  # What the name of an average that users know it by begins with.


@dataclass(frozen=True)
class SavedModel:
    """What makes a checkpoint a saved pipeline.

    Attributes:
        weights: The name of the weights to sample with, as `weights_of` lists them.
        texts: Text files by their paths in the folder: the configs of the pipeline, and what others may read.
    """

    weights: str
    texts: Mapping[str, str]


def ema_name(half_life_steps: str | int | None) -> str:
    """Return the name that users know an average by; None is no average."""
    return RAW if half_life_steps in (None, RAW) else f"{_EMA}{half_life_steps}"


def half_life_steps(name: str) -> int | None:
    """Return the half-life of the average that users know by a name, None if it is no average."""
    return None if name == RAW else int(name.removeprefix(_EMA))


def _weights_name(group: str) -> str | None:
    """Return the name that users know a group of tensors by, None if it holds no weights."""
    if group.startswith(_AVERAGE):
        return ema_name(group.removeprefix(_AVERAGE))
    return RAW if group == "unet" else None


def _file_of(group: str, model: SavedModel | None) -> str:
    name = _weights_name(group)
    if model is None or name is None:
        return f"{group}.safetensors"
    variant = "" if name == model.weights else f".{name}"
    return f"unet/diffusion_pytorch_model{variant}.safetensors"


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    state: Mapping[str, Any],
    model: SavedModel | None = None,
) -> Path:
    """Write `folder/step-NNNNNNNN`: a safetensors file per group, a state.json and a manifest of sizes and hashes.

    Args:
        folder: Where checkpoints are kept.
        step: Its step.
        tensors: Groups of tensors: "unet", "average-N" for a half-life of N steps, "optimizer".
        state: Everything else, as JSON.
        model: With it, the checkpoint is a saved pipeline as well.

    Raises:
        OSError: If it cannot be written; earlier checkpoints are untouched.
    """
    path = folder / f"step-{step:08d}"
    files = {group: _file_of(group, model) for group in tensors}
    with atomic_path(path) as temporary:
        temporary.mkdir()
        for group, named in tensors.items():
            on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
            (temporary / files[group]).parent.mkdir(exist_ok=True)
            try:
                # Diffusers reads only files that name the library they are from.
                save_file(on_cpu, temporary / files[group], metadata={"format": "pt"})
            except SafetensorError as error:
                raise OSError(str(error)) from error
        texts = {STATE: json.dumps({"step": step, **state}, indent=1), **(model.texts if model else {})}
        for name, text in texts.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_text(text, encoding="utf-8")
        written = sorted(file for file in temporary.rglob("*") if file.is_file())
        manifest = {
            "format_version": _FORMAT_VERSION,
            "groups": files,
            "files": {file.relative_to(temporary).as_posix(): _size_and_hash(file) for file in written},
        }
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return path


def _size_and_hash(file: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}


def find_damage(path: Path, as_model: bool = False) -> str | None:
    """Compare a checkpoint with its manifest and return what is wrong with it, or None if it is complete.

    With `as_model`, what only training needs is not looked at.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format_version"] not in range(1, _FORMAT_VERSION + 1):
            return f"its format is version {manifest['format_version']}, this program reads up to {_FORMAT_VERSION}"
        for name, expected in manifest["files"].items():
            if as_model and name == f"{OPTIMIZER}.safetensors":
                continue
            if _size_and_hash(path / name) != expected:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).relative_to(path)} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it cannot be read: {error}"
    return None


def _group_files(path: Path) -> dict[str, Path]:
    """Return the files of a checkpoint's groups of tensors. Format 1 names the groups by their files."""
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    groups = manifest.get("groups") or {file.stem: file.name for file in path.glob("*.safetensors")}
    return {group: path / name for group, name in sorted(groups.items())}


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Read what `save_checkpoint` wrote: the groups of tensors, on the CPU, and the state."""
    return {group: load_file(file) for group, file in _group_files(path).items()}, read_state(path)


def read_state(path: Path) -> dict[str, Any]:
    """Read the state of a checkpoint, without its tensors."""
    state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    return state


def weights_of(path: Path) -> dict[str, Path]:
    """Return the weights in a checkpoint by the names that users know them by: "raw", "ema_N", each with its file."""
    files = _group_files(path).items()
    return {name: file for group, file in files if (name := _weights_name(group)) is not None}


def newest_values(folder: Path) -> dict[str, Any] | None:
    """Return the state of the newest checkpoint that can be read, without its tensors; None if there is none."""
    for path in reversed(list_checkpoints(folder)):
        try:
            values = read_state(path)
        except (OSError, ValueError):
            continue
        # What is damaged is reported when the checkpoints are read in full.
        if values.keys() >= {"config", "facts", "total_steps"}:
            return values
    return None


def newest_complete(folder: Path, as_model: bool = False) -> tuple[Path | None, dict[Path, str]]:
    """Return the newest complete checkpoint, or None, and the newer ones that are not, each with what is wrong.

    With `as_model`, what only training needs may be damaged.
    """
    damaged: dict[Path, str] = {}
    for path in reversed(list_checkpoints(folder)):
        damage = find_damage(path, as_model)
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
