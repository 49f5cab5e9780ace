"""TODO src/ddpm_cars/training/log.py."""

import json
from pathlib import Path

from ddpm_cars.figures.curves import plot_loss
from ddpm_cars.runtime import files
from ddpm_cars.training.state import TrainState


def save_log(folder: Path, state: TrainState) -> None:
    """Write loss.json, loss.png and, where there were measurements on held-out images, validation.json."""
    files.write_text(folder / "loss.json", json.dumps(state.history, indent=1))
    if state.validation:
        files.write_text(folder / "validation.json", json.dumps(state.validation, indent=1))
    if state.history:
        plot_loss(state.history, folder / "loss.png", state.validation)
