"""A folder with a saved model, read for publication."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm_cars.errors import UserError
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.runs.fingerprint import identity
from ddpm_cars.runs.load import load_pipeline
from ddpm_cars.runs.run_folder import RunFolder
from ddpm_cars.runtime.files import read_file


@dataclass(frozen=True)
class ModelFolder:
    """What a folder says about its model. An attribute is None where the folder does not say.

    Attributes:
        files: The paths in the folder.
        pipeline: The model, on the CPU.
        settings: The settings of the training run.
        training: The facts of the training run.
        metrics: The metrics of an evaluation of these weights, sampled with the present settings of the scheduler.
        stale_metrics: Path of the metrics of other weights or settings, which must not be published.
    """

    files: RunFolder
    pipeline: DDPMCarsPipeline
    settings: dict[str, Any] | None
    training: dict[str, Any] | None
    metrics: dict[str, Any] | None
    stale_metrics: Path | None


def open_model_folder(folder: str | Path) -> ModelFolder:
    """Load the pipeline of a folder and what lies beside it.

    Args:
        folder: What `DDPMCarsPipeline.save_pretrained` or a training run has written.

    Raises:
        UserError: If there is no model in it that loads, or a file of the run cannot be read.
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
