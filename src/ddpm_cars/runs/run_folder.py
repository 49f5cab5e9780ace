"""The names of the files that runs leave in a folder; no other module spells them."""

import re
from pathlib import Path
from typing import Any

from ddpm_cars.runtime.files import read_file

DENOISING = "denoising.png"
"""The name of a strip of denoising, beside a grid of samples."""
MANIFEST, STATE = "manifest.json", "state.json"
"""The files by which a checkpoint is known: the list of its files, and all of its state that is not a tensor."""
_CHECKPOINT = re.compile(r"step-\d{8}")


def is_checkpoint(path: Path) -> bool:
    """Return whether a folder is a checkpoint, wherever somebody has copied it."""
    return (path / MANIFEST).is_file() and (path / STATE).is_file()


def is_named_as_checkpoint(path: Path) -> bool:
    """Return whether a path, which need not exist, has the name of a checkpoint of a run."""
    return _CHECKPOINT.fullmatch(path.name) is not None


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder of checkpoints, oldest first. It need not exist."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if is_named_as_checkpoint(path))


class EvaluationFolder:
    """Paths in a folder that an evaluation, or a comparison of two, writes."""

    def __init__(self, path: Path):
        self.path = path
        self.metrics = path / "metrics.json"
        self.report = path / "report.html"
        self.card = path / "card.md"  # The section of a model card.
        self.comparison = path / "comparison.json"  # The metrics of two evaluations side by side.

    def sibling(self, words: str) -> Path:
        """Return the path of a folder beside this one, named by its name and some words."""
        path = self.path.resolve() if self.path.name in ("", "..") else self.path
        return path.with_name(f"{path.name}-{words}")

    def beside(self) -> list["EvaluationFolder"]:
        """Return the evaluations with other settings, in folders beside this one whose names begin with its name."""
        beginning = self.sibling("")
        places = beginning.parent.iterdir() if beginning.parent.is_dir() else ()
        folders = [EvaluationFolder(path) for path in sorted(places) if path.name.startswith(beginning.name)]
        return [folder for folder in folders if folder.metrics.is_file()]

    def image(self, name: str) -> Path:
        """Return the path of an image of the report, PNG."""
        return self.path / f"{name}.png"


class RunFolder:
    """Paths in the folder of a training run, or of any other saved pipeline.

    Args:
        path: The folder; it need not exist.

    Attributes:
        model_index: The list of a pipeline's parts. A folder with this file holds a saved pipeline.
        unet: Folder of the network.
        scheduler: Folder of the scheduler.
        settings: The settings of the run, YAML.
        facts: What a finished run says of itself to others, JSON.
        image_report: What became of every training image, JSON.
        loss: The records of the training loss, JSON.
        loss_plot: The curve of the training loss, PNG.
        validation: The losses on held-out images, JSON.
        samples: A grid of sampled images, PNG.
        denoising: How the first images of that grid come out of noise, PNG.
        progress: Folder of the grids that a run samples while it trains.
        checkpoints: Folder of the checkpoints.
        best: Folder of the pipeline with the lowest loss on held-out images so far.
        logs: Folder of the trackers.
        evaluation: Where an evaluation of this model writes, unless it is told otherwise; those with other settings
            are beside it.
    """

    def __init__(self, path: str | Path):
        self.path = path = Path(path)
        self.model_index = path / "model_index.json"
        self.unet = path / "unet"
        self.scheduler = path / "scheduler"
        self.settings = path / "config.yaml"
        self.facts = path / "training.json"
        self.image_report = path / "pictures.json"
        self.loss = path / "loss.json"
        self.loss_plot = path / "loss.png"
        self.validation = path / "validation.json"
        self.samples = path / "samples.png"
        self.denoising = path / DENOISING
        self.progress = path / "samples"
        self.checkpoints = path / "checkpoints"
        self.best = path / "best"
        self.logs = path / "logs"
        self.evaluation = EvaluationFolder(path / "evaluation")

    def run(self) -> "RunFolder | None":
        """Return the folder of the run that this folder is a checkpoint of; None if it is none, or lies elsewhere."""
        path = self.path.resolve()
        if not is_checkpoint(path) or path.parent != RunFolder(path.parents[1]).checkpoints:
            return None
        # As the user has written it, where that is possible.
        written = RunFolder(self.path.parent.parent)
        return written if written.checkpoints.resolve() == path.parent else RunFolder(path.parents[1])

    def newest_step(self) -> Path | None:
        """Return the newest checkpoint in this folder, which is that of a run or of its checkpoints; None if none."""
        found = list_checkpoints(self.path) or list_checkpoints(self.checkpoints)
        return found[-1] if found else None

    def read_facts(self) -> dict[str, Any] | None:
        """Return what the run that has made the model says of itself, None if the folder does not say.

        Checkpoints of earlier versions say their step only. Raises UserError if the file is damaged.
        """
        known: dict[str, Any] | None = read_file(self.facts)
        if known is None and is_checkpoint(self.path):
            return {"steps": read_file(self.path / STATE)["step"]}
        return known

    def why_no_pipeline(self) -> str | None:
        """Return why a folder that exists holds no model; None if it, or a checkpoint in it, seems to hold one."""
        if self.model_index.is_file() or is_checkpoint(self.path) or self.newest_step() is not None:
            return None
        if self.checkpoints.is_dir():
            return (
                f"{self.path} is a run that has not finished, and it has no checkpoint yet; the same training command "
                "continues it"
            )
        return f"{self.path} holds no saved pipeline: there is no {self.model_index.name}"

    def read_settings(self) -> dict[str, Any]:
        """Return the settings of the run, empty if the folder has none.

        Raises:
            UserError: If the file is damaged.
        """
        # Checkpoints of earlier versions have no file of their own for them.
        return read_file(self.settings) or (read_file(self.path / STATE) or {}).get("config", {})
