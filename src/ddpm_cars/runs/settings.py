"""The settings of a run: which images they name, whether others fit the model, and what of them others may see."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from ddpm_cars.config.commands import EvaluateConfig
from ddpm_cars.config.fields import settings_with
from ddpm_cars.config.pictures import PicturesConfig, PicturesOfRunConfig
from ddpm_cars.config.training import TrainCommandConfig, TrainingConfig
from ddpm_cars.data.pictures import Pictures
from ddpm_cars.errors import UserError
from ddpm_cars.runs.run_folder import RunFolder

Config = TypeVar("Config", bound=PicturesOfRunConfig)


def with_pictures_of_run(config: Config, name: str) -> Config:
    """Fill in what `config` does not say about the images from the run in the folder `name`.

    If the settings name images, little is taken from the run: how images become pixels and, if the images are those
    of the run, its columns, which folders are splits and which images were held out. Raises UserError if neither names
    images, or the settings do not fit together.
    """
    defaults: dict[str, Any] = {field.name: field.default for field in fields(PicturesConfig)}
    names = {setting for setting in ("resize", "background", "value_range") if getattr(config, setting) is None}
    taken = {setting: defaults[setting] for setting in names}
    run = RunFolder(name).read_settings()
    if run:
        # Earlier versions left out what is beside splits.
        run = {"split_folders": True, **run}
    if config.train_data_dir is None and config.dataset_name is None:
        if not run:
            raise UserError(
                f"{name} has no config.yaml that says what it was trained on; give train_data_dir or dataset_name, "
                "and validation_split"
            )
        names = {*settings_with(TrainingConfig, "from_run")}
    elif _are_of_run(config, run):
        names |= {"split_folders", "image_column", "label_column"}
        names |= {"validation_split"} if config.split is None else set()
    # A setting of the command wins. It is known to be set if it is not the default.
    names -= {f.name for f in fields(config) if getattr(config, f.name) != f.default}
    return replace(config, **taken | {setting: value for setting, value in run.items() if setting in names})


def _are_of_run(config: PicturesOfRunConfig, run: Mapping[str, Any]) -> bool:
    """Return whether settings name the images of a run, however their paths are written."""

    def place(name: Any) -> Any:
        return Path(name).resolve() if name is not None and Path(name).exists() else name

    names = ("train_data_dir", "dataset_name", "dataset_config_name")
    return all(place(run.get(name)) == place(getattr(config, name)) for name in names)


def _splits(text: str | None) -> set[str] | None:
    """Return the splits in text such as "train[:9]+test", a slice as the whole split; None stands for all splits."""
    return None if text is None else {part.partition("[")[0].strip() for part in text.split("+")}


def check_held_out(config: EvaluateConfig, name: str) -> None:
    """Raise UserError if the model in the folder `name` was trained on the split that stands for unseen images.

    If the folder has no settings of a run, nothing is checked.
    """
    split, run = config.validation_split, RunFolder(name).read_settings()
    if split is None or not run:
        return
    trained, asked = _splits(run.get("split")), _splits(split)
    has_seen = (trained is None or trained & asked) and run.get("validation_split") != split  # type: ignore[operator]
    if has_seen and _are_of_run(config, run):
        raise UserError(
            f"validation_split is {split}, which {name} was trained on, at least in part, as its config.yaml says; "
            "evaluate without validation_split, or train with it"
        )


def check_classes(pictures: Pictures, class_names: tuple[str, ...]) -> None:
    """Raise UserError if images, loaded with labels, have other classes than the model. It may have none."""
    if class_names and pictures.class_names != class_names:
        source = pictures.report["source"]
        raise UserError(
            f"{source} has the classes {', '.join(pictures.class_names)}, and the model has {', '.join(class_names)}"
        )


def dataset_id(settings: Mapping[str, Any]) -> str | None:
    """Return the id of the dataset on the Hub, None for images of this machine."""
    name = settings.get("dataset_name")
    return None if name is None or Path(name).expanduser().exists() else str(name)


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that others can use. Of paths on this machine, only the last part is kept."""
    private = settings_with(TrainCommandConfig, "private")
    public = {name: value for name, value in settings.items() if name not in private}
    for name in settings_with(TrainCommandConfig, "path"):
        value = public.get(name)
        if value is not None and (name != "dataset_name" or dataset_id(settings) is None):
            public[name] = Path(value).name
    return public
