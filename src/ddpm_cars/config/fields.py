"""What the settings have in common: how a field describes itself, the checks of its value, and files of them."""

import inspect
import math
import os
import re
from dataclasses import Field, field, fields
from typing import Any, ClassVar, TypeVar, get_type_hints

from ddpm_cars.config.hints import cure
from ddpm_cars.config.recipes import find_network, find_settings
from ddpm_cars.config.values import LEADING_ZERO, MISFIT, Written, check_range, either, fit, kinds_of, options, shown
from ddpm_cars.config.yaml_files import read_yaml
from ddpm_cars.errors import UserError

Config = TypeVar("Config", bound="Settings")

AUTO = "auto"
"""The default of a setting that follows the machine, the images or the length of the run. Only such a setting takes
this word; what computes sees the value that was chosen in its place."""

NUM_SEEDS = 2**64 - 2**32
"""PyTorch takes seeds below 2**64; those of single images are counted from this setting."""

_MAX_SHOWN = 200  # Characters of a value that a message shows.
GROUPS = (
    "most used",
    "model",
    "settings",
    "images",
    "network",
    "noise",
    "loss",
    "optimiser",
    "moving averages",
    "sampler",
    "measurements",
    "what is written",
    "machine",
    "publishing",
)
"""The groups of settings in `--help`, in their order."""
_DEFAULT_GROUP = "settings"


def setting(
    default: Any,
    *,
    # Whether a run may continue with another value, which decides where it ends and what it shows, not how it trains.
    may_change: bool | None = None,
    # Whether a run may continue with another value and trains otherwise from there on, which is recorded.
    changes_training: bool = False,
    private: bool = False,  # Whether it is not published, because it says where a run was, not what it was.
    path: bool = False,  # Whether it may hold a path, of which only the last part is published.
    from_run: bool = False,  # Whether it says which images a run used: commands that measure its model take it over.
    label: str | None = None,  # Its name in the model card; None leaves it out of the card.
    stock: str | None = None,  # The flag of diffusers' train_unconditional.py that means the same.
    # A number, or every number of a list, is at least `minimum`, or above `above`, and less than `below`.
    minimum: float | None = None,
    above: float | None = None,
    below: float = math.inf,
    group: str | None = None,  # Its group in --help; None is the group of the class that it is defined in.
) -> Any:
    """Return a field that says everything about itself; its docstring is its `--help` text."""
    may_change = True if changes_training else may_change
    about: dict[str, Any] = {"may_change": may_change, "changes_training": changes_training, "private": private}
    about |= {"path": path, "from_run": from_run, "group": group}
    limits = {"minimum": minimum, "above": above, "below": below}
    return field(default=default, metadata={**about, "label": label, "stock": stock, "limits": limits})


def settings_with(config_class: type, key: str) -> dict[str, Any]:
    """Return what the fields of a config say under `key`, an argument of `setting`, unless they say False or None.

    Raises TypeError if nobody has decided whether a field may change.
    """
    for undecided in (f.name for f in fields(config_class) if f.metadata.get("may_change") is None):
        raise TypeError(f"{config_class.__name__}.{undecided} does not say may_change; define it with setting(...)")
    return {f.name: f.metadata[key] for f in fields(config_class) if f.metadata[key]}


def grouped(config_class: type["Settings"]) -> dict[str, list[Field]]:
    """Return the fields of a config in the groups of `--help`."""
    groups: dict[str, list[Field]] = {group: [] for group in GROUPS}
    for f in fields(config_class):  # type: ignore[arg-type]
        owner = next(c for c in config_class.__mro__ if f.name in inspect.get_annotations(c))
        groups[f.metadata.get("group") or str(vars(owner).get("group", _DEFAULT_GROUP))].append(f)
    return {group: members for group, members in groups.items() if members}


class Settings:
    """What all configs have in common: their values have the right types and are in range.

    Attributes:
        takes_recipes: Whether a file of these settings may be a recipe of the package.
        group: The group in `--help` of the settings that do not name theirs.
    """

    takes_recipes: ClassVar[bool] = False
    group: ClassVar[str] = _DEFAULT_GROUP

    def __new__(cls, *_: Any, **settings: Any) -> "Settings":
        """Refuse a setting that does not exist, as Python does, with what to give instead."""
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        for name in settings:
            if name not in known:
                hint = cure(name, cls)
                raise TypeError(
                    f"{cls.__name__} has no setting {name}" + (f"; {hint.replace('--', '')}" if hint else "")
                )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Convert every field to its type: a path becomes a string, a list or a single value a tuple.

        Raises UserError for the first field whose value does not fit, with what it can be.
        """
        kinds = get_type_hints(type(self))
        for f in fields(self):  # type: ignore[arg-type]
            # Only this function may write into a frozen config.
            object.__setattr__(self, f.name, _fit_setting(f, kinds[f.name], getattr(self, f.name)))

    @classmethod
    def check_given(cls, config: Any, function: str) -> None:
        """Raise TypeError if a function that takes these settings is given something else."""
        if not isinstance(config, cls):
            name = cls.__name__
            raise TypeError(f"{function} takes a {name}, as in {function}({name}(...)), and {config!r} is none")

    @classmethod
    def from_yaml(cls: type[Config], name_or_path: str | os.PathLike[str], **changes: Any) -> Config:
        """Return the settings in a YAML file, such as the config.yaml of a run.

        Args:
            name_or_path: The file, or for training the name of a recipe that comes with the package, such as "toy".
            changes: Settings that win over those of the file.

        Raises:
            UserError: If there is no such file, it cannot be read, or a setting is unknown or does not fit.
        """
        return cls(**cls.read_file(os.fspath(name_or_path)) | changes)

    @classmethod
    def read_file(cls, name_or_path: str) -> dict[str, Any]:
        """Return the values in a file as `from_yaml` takes them, each checked for itself; the others are missing.

        Raises UserError as `from_yaml` does; the message begins with the file and the line.
        """
        values: dict[str, Any] = {}
        for name, written in read_yaml(find_settings(name_or_path, cls.takes_recipes)).items():
            values |= cls.read(name, written)
        return values

    @classmethod
    def read(cls, name: str, written: Written) -> dict[str, Any]:
        """Return the value of a setting by its name, as somebody has written it.

        Raises UserError if there is no such setting, or the value does not fit; the message begins with the place.
        """
        try:
            return cls._read(name, written)
        except UserError as error:
            raise UserError(f"{written.place}{error}") from error

    @classmethod
    def _read(cls, name: str, written: Written) -> dict[str, Any]:
        # The config.yaml of a run says also where the command was to publish it.
        for owner in (cls, *cls.__subclasses__()):
            if (about := {f.name: f for f in fields(owner)}.get(name)) is not None:  # type: ignore[arg-type]
                kind = get_type_hints(owner)[name]
                value = _fit_setting(about, kind, written.value(kind), written.text)
                if owner is cls:
                    return {name: find_network(value) if name == "model_config" and value is not None else value}
                if value == about.default:
                    return {}
                raise UserError(f"{name} is {written.text}; only {owner.__name__} has this setting")
        hint = cure(name, cls)
        raise UserError(f"there is no setting {name}" + (f"; {hint.replace('--', '')}" if hint else ""))


def _fit_setting(about: Field, kind: Any, value: Any, said: str | None = None) -> Any:
    """Return the value of a setting, converted to its type.

    Args:
        about: The field of the setting.
        kind: Its type.
        value: The value.
        said: What the user has written in a file or a command, where True and None have other names.

    Raises:
        UserError: If the value does not have the type, is an empty list or out of range.
    """
    may_be_auto = about.default == AUTO
    fitting = AUTO if may_be_auto and value == AUTO else fit(value, kind)
    # Where None does not mean off, it says that nobody has decided; runs of earlier versions recorded it so.
    if may_be_auto and (fitting == AUTO or (value is None and fitting is MISFIT)):
        return AUTO
    if fitting is MISFIT:
        words = options(kind, in_python=said is None) + [AUTO] * may_be_auto
        known = f"{about.name} is {_shortened(shown(value) if said is None else said or 'empty')}"
        if {int, float} & {*kinds_of(kind)} and re.search(rf"(?<![\w.]){LEADING_ZERO}(?![\w.])", said or ""):
            raise UserError(f"{known}, which other programs may read as octal; write it without a 0 at its beginning")
        raise UserError(f"{known}; it must be {either(words)}")
    for text in fitting if isinstance(fitting, tuple) else (fitting,):
        if isinstance(text, str) and re.search("[\0\ud800-\udfff]", text):
            raise UserError(f"{about.name} is {text!r}, which is no text in UTF-8; rename it")
    if fitting == ():
        raise UserError(f"{about.name} is empty; give one value or more, or leave it out")
    if fitting is not None and "limits" in about.metadata:
        check_range(about.name, fitting, **about.metadata["limits"], said=said)
    return fitting


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
