"""What the settings have in common: how a field describes itself, and the checks of its value."""

import math
import os
import types
from dataclasses import field, fields
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ddpm_cars.errors import UserError

_MISFIT = object()

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
            value, kind = getattr(self, f.name), kinds[f.name]
            if f.default == AUTO and value == AUTO:
                continue
            fitting = _fit(value, kind)
            if fitting is _MISFIT:
                raise UserError(f"{f.name} is {value!r}; it must be {in_words(kind, f.default == AUTO)}")
            if fitting == ():
                raise UserError(f"{f.name} is empty; give one value or more, or leave it out")
            if fitting is not None and "limits" in f.metadata:
                _check_range(f.name, fitting, **f.metadata["limits"])
            # Only this function may write into a frozen config.
            object.__setattr__(self, f.name, fitting)


def _fit(value: Any, kind: Any) -> Any:
    """Return a value converted to the type of a field, or _MISFIT."""
    if get_origin(kind) in (Union, types.UnionType):
        fitting = (_fit(value, member) for member in get_args(kind))
        return next((v for v in fitting if v is not _MISFIT), _MISFIT)
    if get_origin(kind) is tuple:
        values = value if isinstance(value, list | tuple | range) else (value,)
        parts = tuple(_fit(v, get_args(kind)[0]) for v in values)
        return _MISFIT if _MISFIT in parts else parts
    if get_origin(kind) is Literal:
        return value if isinstance(value, str) and value in get_args(kind) else _MISFIT
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind in (int, float):
        # Python counts a bool as a number.
        is_number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        return kind(value) if is_number else _MISFIT
    return value if isinstance(value, kind) else _MISFIT


def in_words(kind: Any, or_auto: bool = False) -> str:
    """Return what values a type has: "one of 'adam', 'adamw'", or those and `AUTO`."""
    if or_auto:
        return f"{in_words(kind)} or {AUTO!r}"
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(in_words(member) for member in get_args(kind))
    if get_origin(kind) is tuple:
        return f"a list in which every item is {in_words(get_args(kind)[0])}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    return {bool: "True or False", int: "a whole number", float: "a number", str: "a string"}.get(kind, "None")


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
