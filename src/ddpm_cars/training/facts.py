"""What a finished run says of itself to others: training.json, and its settings without the paths of a machine."""

from pathlib import Path
from typing import Any

from ddpm_cars.runs.public_settings import dataset_id
from ddpm_cars.runtime.hardware import versions
from ddpm_cars.training.averages import half_life_steps
from ddpm_cars.training.prepare import Setup

FORMAT_VERSION = 1


def training_facts(run: Setup, average: str) -> dict[str, Any]:
    """Return what training.json says of a run.

    Args:
        run: The run.
        average: The name of the average that is published, one of `state.averages`, or `RAW`.

    Returns:
        JSON values; "seconds" are those of training itself, without saving, measuring and sampling.
    """
    config, state, pictures = run.config, run.state, run.pictures
    source = config.train_data_dir or config.dataset_name
    measured = state.validation[-1]["eps_mse"][average] if state.validation else None
    return {
        "format": FORMAT_VERSION,
        "steps": state.step,
        "global_batch_size": run.global_batch_size,
        "num_parameters": sum(p.numel() for p in state.unet.parameters()),
        "average_half_life_steps": half_life_steps(state.averages[average]) if average in state.averages else None,
        "data": {
            "source": Path(str(source)).name,
            "dataset_id": dataset_id({"dataset_name": config.dataset_name}),
            "num_images": None if pictures is None else len(pictures.images),
            "classes": list(run.class_names),
        },
        "validation": None
        if measured is None or run.held_out is None
        else {"split": config.validation_split, "num_images": len(run.held_out), "eps_mse": measured},
        "hardware": state.hardware,
        "versions": versions(),
    }
