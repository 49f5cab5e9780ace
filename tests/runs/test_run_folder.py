"""The names of the files of a run, which scripts of users and earlier runs know."""

from pathlib import Path

import pytest

from ddpm_cars.errors import UserError
from ddpm_cars.runs.run_folder import RunFolder


def test_names_stay(tmp_path: Path):
    folder = RunFolder(tmp_path)
    names = {
        "model_index": "model_index.json",
        "unet": "unet",
        "scheduler": "scheduler",
        "settings": "config.yaml",
        "facts": "training.json",
        "image_report": "pictures.json",
        "loss": "loss.json",
        "loss_plot": "loss.png",
        "validation": "validation.json",
        "samples": "samples.png",
        "denoising": "denoising.png",
        "progress": "samples",
        "checkpoints": "checkpoints",
        "best": "best",
        "logs": "logs",
    }
    assert {name: getattr(folder, name) for name in names} == {name: tmp_path / file for name, file in names.items()}
    assert folder.evaluation.metrics == tmp_path / "evaluation" / "metrics.json"
    assert folder.evaluation.report == tmp_path / "evaluation" / "report.html"


def test_settings_are_read_are_missing_or_are_damaged(tmp_path: Path):
    folder = RunFolder(str(tmp_path))
    assert folder.read_settings() == {}
    folder.settings.write_text("seed: 5\n")
    assert folder.read_settings() == {"seed": 5}
    folder.settings.write_text("seed: [")
    with pytest.raises(UserError, match="mend or remove it"):
        folder.read_settings()
