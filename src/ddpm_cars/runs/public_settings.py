"""The settings of a run that others may see."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm_cars.config.fields import settings_with
from ddpm_cars.config.training import TrainCommandConfig


def dataset_id(settings: Mapping[str, Any]) -> str | None:
    """Return the id of the dataset on the Hub, None for images of this machine."""
    name = settings.get("dataset_name")
    return None if name is None or Path(name).expanduser().exists() else str(name)


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that others can use. Of paths on this machine, only the last part is kept.

    Args:
        settings: The settings of a `TrainingConfig`.
    """
    private = settings_with(TrainCommandConfig, "private")
    public = {name: value for name, value in settings.items() if name not in private}
    for name in settings_with(TrainCommandConfig, "path"):
        value = public.get(name)
        if value is not None and (name != "dataset_name" or dataset_id(settings) is None):
            public[name] = Path(value).name
    return public
