"""What a finished run says of itself to others: training.json, and its settings without the paths of a machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm_cars.metrics_file import versions
from ddpm_cars.setup import Setup
from ddpm_cars.train_state import half_life_steps

FORMAT_VERSION = 1
_PATHS = ("train_data_dir", "dataset_name", "model_config")
# They say where a run was, not what it was.
_PRIVATE = (
    *("output_dir", "overwrite_output_dir", "cache_dir", "dry_run", "logger"),
    *("push_to_hub", "hub_model_id", "hub_private_repo"),
)


def dataset_id(settings: Mapping[str, Any]) -> str | None:
    """Return the dataset's id on the Hub; None for pictures of this machine."""
    name = settings.get("dataset_name")
    return None if name is None or Path(name).expanduser().exists() else str(name)


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that others can use, with the last part only of paths.

    Args:
        settings: Those of a `TrainingConfig`.
    """
    public = {name: value for name, value in settings.items() if name not in _PRIVATE}
    for name in _PATHS:
        value = public.get(name)
        if value is not None and (name != "dataset_name" or dataset_id(settings) is None):
            public[name] = Path(value).name
    return public


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
