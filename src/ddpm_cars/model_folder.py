"""A folder with a model, read for publication."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ddpm_cars.config import ConfigError
from ddpm_cars.features import weights_sha256
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.sampling import load_pipeline


@dataclass(frozen=True)
class ModelFolder:
    """What a folder says of its model; whatever it does not say is None.

    Attributes:
        path: The folder.
        pipeline: The model, on the CPU.
        settings: Those of the training run, from config.yaml.
        training: training.json.
        metrics: metrics.json of an evaluation of these very weights.
        stale_metrics: Path of a metrics.json of other weights, which nothing is to be said from.
    """

    path: Path
    pipeline: DDPMCarsPipeline
    settings: dict[str, Any] | None
    training: dict[str, Any] | None
    metrics: dict[str, Any] | None
    stale_metrics: Path | None

    def find(self, name: str) -> Path | None:
        """Return the path of a file in the folder, None if it has none of that name."""
        path = self.path / name
        return path if path.is_file() else None


def open_model_folder(folder: str | Path) -> ModelFolder:
    """Load the pipeline of a folder and what lies beside it.

    Args:
        folder: What `DDPMCarsPipeline.save_pretrained` or a training run has written.

    Raises:
        ConfigError: If there is no model in it that loads, or a file of the run cannot be read.
    """
    path = Path(folder)
    if not (path / "model_index.json").is_file():
        raise ConfigError(f"{path} is not a folder with a saved pipeline: there is no model_index.json")
    pipeline = load_pipeline(str(path))
    metrics_path = path / "evaluation" / "metrics.json"
    metrics = _read(metrics_path)
    # Results are written anew by every run in the folder; an evaluation may be of those before.
    stale = metrics is not None and metrics["model"]["weights_sha256"] != weights_sha256(pipeline.unet)[:16]
    return ModelFolder(
        path,
        pipeline,
        _read(path / "config.yaml"),
        _read(path / "training.json"),
        None if stale else metrics,
        metrics_path if stale else None,
    )


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        # JSON is YAML too, but its reader is faster and stricter.
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; mend or remove it") from error
