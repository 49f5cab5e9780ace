"""What a finished run says of itself to others, in training.json."""

from pathlib import Path
from typing import Any

from ddpm_cars.runs.settings import dataset_id
from ddpm_cars.runtime.hardware import versions
from ddpm_cars.training.run import Run
from ddpm_cars.training.state import TrainState

FORMAT_VERSION = 1


def training_facts(run: Run, state: TrainState, average: str) -> dict[str, Any]:
    """Return what training.json says of a run, JSON values.

    Args:
        run: The run.
        state: Its state at the end; the seconds of its hardware are without saving, measuring and sampling.
        average: The name of the average that is published, or `RAW`.
    """
    config, images = run.config, run.images
    source = config.train_data_dir or config.dataset_name
    measured = state.log.validation[-1]["eps_mse"][average] if state.log.validation else None
    return {
        "format": FORMAT_VERSION,
        "steps": state.step,
        "global_batch_size": run.global_batch_size,
        "num_parameters": sum(p.numel() for p in state.unet.parameters()),
        "average_half_life_steps": state.averages.half_life_steps(average, state.num_updates),
        "data": {
            "source": Path(str(source)).name,
            "dataset_id": dataset_id({"dataset_name": config.dataset_name}),
            "num_images": None if images is None else len(images.images),
            "classes": list(run.class_names),
        },
        "validation": None
        if measured is None or run.held_out is None
        else {"split": config.validation_split, "num_images": len(run.held_out), "eps_mse": measured},
        "hardware": state.hardware,
        "versions": versions(),
    }
