"""Loading a saved pipeline from a folder or the Hub, and the hashes by which a model is recognised."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

from ddpm_cars.errors import UserError
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.runs.run_folder import RunFolder
from ddpm_cars.runtime.files import read_file


def load_pipeline(name: str) -> DDPMCarsPipeline:
    """Load a saved pipeline.

    Args:
        name: Its folder, or its id on the Hub.

    Raises:
        UserError: If there is none that loads.
    """
    folder, files = Path(name), RunFolder(name)
    if folder.is_dir() and not files.model_index.is_file():
        if files.checkpoints.is_dir():
            raise UserError(
                f"{name} is a run that has not finished (no {files.model_index.name}); the same training command "
                "continues it, and with --max_train_steps at the step of its checkpoint ends it there"
            )
        raise UserError(f"{name} holds no saved pipeline: there is no {files.model_index.name}")
    try:
        return DDPMCarsPipeline.from_pretrained(name)
    except (OSError, ValueError) as error:
        if folder.is_dir():
            raise UserError(f"no pipeline can be loaded from {name}: {error}") from error
        reason = _why_not_from_hub(error)
        raise UserError(f"there is no folder {name}, and no such model can be had from the Hub ({reason})") from error


def _why_not_from_hub(error: Exception) -> str:
    """Return in a few words what diffusers says in several sentences about its own arguments."""
    cause = error.__cause__
    if isinstance(error, ValueError):
        return "its ids are NAME or OWNER/NAME"
    if isinstance(cause, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, and it is not in the cache"
    if isinstance(cause, RepositoryNotFoundError | GatedRepoError):
        return "it does not exist there, or is private to others"
    return f"{type(cause or error).__name__}, and it is not in the cache"


def weights_sha256(network: torch.nn.Module, prefix: str = "") -> str:
    """Return the SHA-256 of a prefix and of the names and bytes of all weights and buffers, in hexadecimal digits."""
    digest = hashlib.sha256(prefix.encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def identity(pipeline: DDPMCarsPipeline) -> dict[str, str]:
    """Return hashes of what images depend on: the weights, and the class and all settings of the scheduler."""
    settings = json.loads(pipeline.scheduler.to_json_string())
    settings.pop("_diffusers_version")
    hashed = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return {"weights_sha256": weights_sha256(pipeline.unet)[:16], "scheduler_config_sha256": hashed[:16]}


@dataclass(frozen=True)
class ModelFolder:
    """What a folder says about its model, for publication. An attribute is None where the folder does not say."""

    files: RunFolder
    pipeline: DDPMCarsPipeline  # On the CPU.
    settings: dict[str, Any] | None  # Those of the training run.
    training: dict[str, Any] | None  # The facts of the training run.
    metrics: dict[str, Any] | None  # Of these weights, sampled with the present settings of the scheduler.
    stale_metrics: Path | None  # The metrics of other weights or settings, which must not be published.


def open_model_folder(folder: str | Path) -> ModelFolder:
    """Load the pipeline of a folder and what lies beside it.

    Raises UserError if there is no model in it that loads, or a file of the run cannot be read.
    """
    files = RunFolder(folder)
    if not files.model_index.is_file():
        raise UserError(f"{files.path} is not a folder with a saved pipeline: there is no {files.model_index.name}")
    pipeline = load_pipeline(str(files.path))
    metrics = read_file(files.evaluation.metrics)
    # A new run in the folder replaces the weights, and a calibration replaces the settings of the scheduler.
    now = identity(pipeline)
    # Metrics of earlier versions have no hash of the scheduler.
    stale = metrics is not None and any(metrics["model"].get(name, value) != value for name, value in now.items())
    return ModelFolder(
        files,
        pipeline,
        read_file(files.settings),
        read_file(files.facts),
        None if stale else metrics,
        files.evaluation.metrics if stale else None,
    )
