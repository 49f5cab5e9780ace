"""What the settings have in common: how a field describes itself, and the checks of its value."""

import math
import os
import types
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import Field, field, fields
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ddpm_cars.errors import UserError

MISFIT = object()
"""What `fit` returns for a value that does not have the type."""
_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "none"}

AUTO = "auto"
"""The default of a setting that follows the machine, the images or the length of the run. Only such a setting takes
this word; what computes sees the value that was chosen in its place."""


def setting(
    default: Any,
    *,
    # Whether a run may continue with another value, which decides where it ends and what it shows, not how it trains.
    may_change: bool | None = None,
    private: bool = False,  # Whether it is not published, because it says where a run was, not what it was.
    path: bool = False,  # Whether it may hold a path, of which only the last part is published.
    from_run: bool = False,  # Whether it says which images a run used: commands that measure its model take it over.
    label: str | None = None,  # Its name in the model card; None leaves it out of the card.
    stock: str | None = None,  # The flag of diffusers' train_unconditional.py that means the same.
    # A number, or every number of a list, is at least `minimum`, or above `above`, and less than `below`.
    minimum: float | None = None,
    above: float | None = None,
    below: float = math.inf,
) -> Any:
    """Return a field that says everything about itself; its docstring is its `--help` text."""
    about = {"may_change": may_change, "private": private, "path": path, "from_run": from_run}
    limits = {"minimum": minimum, "above": above, "below": below}
    return field(default=default, metadata={**about, "label": label, "stock": stock, "limits": limits})


def settings_with(config_class: type, key: str) -> dict[str, Any]:
    """Return what the fields of a config say under `key`, an argument of `setting`, unless they say False or None.

    Raises TypeError if nobody has decided whether a field may change.
    """
    for undecided in (f.name for f in fields(config_class) if f.metadata.get("may_change") is None):
        raise TypeError(f"{config_class.__name__}.{undecided} does not say may_change; define it with setting(...)")
    return {f.name: f.metadata[key] for f in fields(config_class) if f.metadata[key]}


class Settings:
    """What all configs have in common: their values have the right types and are in range."""

    def __post_init__(self) -> None:
        """Convert every field to its type: a path becomes a string, a list or a single value a tuple.

        Raises UserError for the first field whose value does not fit, with what it can be.
        """
        kinds = get_type_hints(type(self))
        for f in fields(self):  # type: ignore[arg-type]
            # Only this function may write into a frozen config.
            object.__setattr__(self, f.name, fit_setting(f, kinds[f.name], getattr(self, f.name)))


def fit_setting(about: Field, kind: Any, value: Any, said: str | None = None) -> Any:
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
    if may_be_auto and value == AUTO:
        return value
    fitting = fit(value, kind)
    if fitting is MISFIT:
        words = _options(kind, in_python=said is None) + [AUTO] * may_be_auto
        raise UserError(f"{about.name} is {_shown(value) if said is None else said}; it must be {_either(words)}")
    if fitting == ():
        raise UserError(f"{about.name} is empty; give one value or more, or leave it out")
    if fitting is not None and "limits" in about.metadata:
        _check_range(about.name, fitting, **about.metadata["limits"])
    return fitting


def fit(value: Any, kind: Any) -> Any:
    """Return a value converted to the type of a field, or MISFIT."""
    if get_origin(kind) in (Union, types.UnionType):
        fitting = (fit(value, member) for member in get_args(kind))
        return next((v for v in fitting if v is not MISFIT), MISFIT)
    if get_origin(kind) is tuple:
        values = value if isinstance(value, list | tuple | range) else (value,)
        parts = tuple(fit(v, get_args(kind)[0]) for v in values)
        return MISFIT if MISFIT in parts else parts
    if get_origin(kind) is Literal:
        return value if isinstance(value, str) and value in get_args(kind) else MISFIT
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind in (int, float):
        # Python counts a bool as a number.
        is_number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        return kind(value) if is_number else MISFIT
    return value if isinstance(value, kind) else MISFIT


def _shown(value: Any) -> str:
    """Return a value as a message shows it: text has quotes only where it could be taken for something else."""
    if not isinstance(value, str) or not value or value != value.strip():
        return repr(value)
    with suppress(ValueError):
        float(value)
        return repr(value)
    return repr(value) if value.lower() in _WORDS else value


def _either(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _options(kind: Any, in_python: bool) -> list[str]:
    """Return what values a type has: "adam", "adamw"."""
    if get_origin(kind) in (Union, types.UnionType):
        return [option for member in get_args(kind) for option in _options(member, in_python)]
    if get_origin(kind) is tuple:
        return [f"a list in which every item is {_either(_options(get_args(kind)[0], in_python))}"]
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    names = {int: "a whole number", float: "a number", str: "a string"}
    constants = {bool: ("True or False", "true or false"), type(None): ("None", "null")}
    return [names[kind] if kind in names else constants[kind][not in_python]]


def _check_range(name: str, value: Any, minimum: float | None, above: float | None, below: float) -> None:
    items, subject = (value, "every item") if isinstance(value, tuple) else ((value,), "it")
    if minimum is not None:
        is_in_range = all(minimum <= item < below for item in items)
        words = f"{minimum} or more, and finite" if below == math.inf else f"in [{minimum}, {below})"
    else:
        is_in_range = above is None or all(above < item < below for item in items)
        words = f"above {above}, and finite"
    if not is_in_range:
        raise UserError(f"{name} is {value}; {subject} must be {words}")
