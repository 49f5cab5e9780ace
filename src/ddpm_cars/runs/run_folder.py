"""A folder with a model, read for publication."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm_cars.errors import UserError
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.runs.fingerprint import identity
from ddpm_cars.runs.load import load_pipeline
from ddpm_cars.runtime.files import read_file


@dataclass(frozen=True)
class ModelFolder:
    """What a folder says of its model; whatever it does not say is None.

    Attributes:
        path: The folder.
        pipeline: The model, on the CPU.
        settings: Those of the training run, from config.yaml.
        training: training.json.
        metrics: metrics.json of an evaluation of these very weights, drawn from as they are now.
        stale_metrics: Path of a metrics.json of other weights or settings, which nothing is to be said from.
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
        UserError: If there is no model in it that loads, or a file of the run cannot be read.
    """
    path = Path(folder)
    if not (path / "model_index.json").is_file():
        raise UserError(f"{path} is not a folder with a saved pipeline: there is no model_index.json")
    pipeline = load_pipeline(str(path))
    metrics_path = path / "evaluation" / "metrics.json"
    metrics = read_file(metrics_path)
    # Results are written anew by every run in the folder, and the sampler by a calibration.
    now = identity(pipeline)
    # Earlier versions have left the second one out.
    stale = metrics is not None and any(metrics["model"].get(name, value) != value for name, value in now.items())
    return ModelFolder(
        path,
        pipeline,
        read_file(path / "config.yaml"),
        read_file(path / "training.json"),
        None if stale else metrics,
        metrics_path if stale else None,
    )
