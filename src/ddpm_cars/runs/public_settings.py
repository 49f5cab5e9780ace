"""The settings of a run that others may see."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PATHS = ("train_data_dir", "dataset_name", "model_config")

# They say where a run was, not what it was.
_PRIVATE = (
    *("output_dir", "overwrite_output_dir", "cache_dir", "dry_run", "logger"),
    *("push_to_hub", "hub_model_id", "hub_private_repo"),
)


def dataset_id(settings: Mapping[str, Any]) -> str | None:
    """Return the dataset's id on the Hub; None for images of this machine."""
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
