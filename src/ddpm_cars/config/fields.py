"""What the settings have in common: how a field describes itself, and the checks of its value."""

import math
import os
import types
from dataclasses import field, fields
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ddpm_cars.errors import UserError

_MISFIT = object()


def setting(
    default: Any,
    *,
    may_change: bool,
    private: bool = False,
    path: bool = False,
    from_run: bool = False,
    label: str | None = None,
    stock: str | None = None,
) -> Any:
    """Return a field of a training run that says everything about itself; its docstring is its `--help` text.

    Args:
        default: Its value where nothing is given.
        may_change: Whether a run may continue with another value. It may if the value decides where the run ends and
            what it shows, but not how it trains.
        private: Whether it is left out of the published settings, because it says where a run was, not what it was.
        path: Whether it may hold a path, of which only the last part is published.
        from_run: Whether a command that measures a model takes it from the model's run: it says which images the run
            used, and how they were prepared.
        label: Its name in the model card; None leaves it out of the card.
        stock: The flag of diffusers' train_unconditional.py that means the same under another name.
    """
    about = {"may_change": may_change, "private": private, "path": path, "from_run": from_run}
    return field(default=default, metadata={**about, "label": label, "stock": stock})


def settings_with(config_class: type, key: str) -> dict[str, Any]:
    """Return what the fields of a config say of themselves under `key`, an argument of `setting`.

    Args:
        config_class: A dataclass of which every field is a `setting`.
        key: Such as "may_change".

    Returns:
        The value for the name of every field that has one and is not False, in the order of the fields.

    Raises:
        TypeError: If a field is not made with `setting`, so that nobody has decided whether it may change.
    """
    for undecided in (f.name for f in fields(config_class) if key not in f.metadata):
        raise TypeError(f"{config_class.__name__}.{undecided} does not say {key}; define it with setting(...)")
    return {f.name: f.metadata[key] for f in fields(config_class) if f.metadata[key]}


def fit_types(config: Any) -> None:
    """Bring every field of a config to its type: a path becomes a string, a list or a single value a tuple.

    Raises:
        UserError: For the first field whose value does not fit, with what it can be.
    """
    kinds = get_type_hints(type(config))
    for name in (f.name for f in fields(config)):
        value, kind = getattr(config, name), kinds[name]
        fitting = _fit(value, kind)
        if fitting is _MISFIT:
            raise UserError(f"{name} is {value!r}; it must be {_in_words(kind)}")
        # Only this function may write into a frozen config.
        object.__setattr__(config, name, fitting)


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


def _in_words(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_in_words(member) for member in get_args(kind))
    if get_origin(kind) is tuple:
        return f"a list in which every item is {_in_words(get_args(kind)[0])}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    return {bool: "True or False", int: "a whole number", float: "a number", str: "a string"}.get(kind, "None")


def at_least(config: Any, minimum: float, *names: str) -> None:
    """Raise a UserError for the first of the named fields that is neither None nor a finite number >= `minimum`."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not minimum <= value < math.inf:
            raise UserError(f"{name} is {value}; it must be {minimum} or more, and finite")


def above_zero(config: Any, *names: str) -> None:
    """Raise a UserError for the first of the named fields that is neither None nor a finite number > 0."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{name} is {value}; it must be above 0, and finite")


def in_unit_interval(config: Any, *names: str) -> None:
    """Raise a UserError for the first of the named fields that is not in [0, 1)."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise UserError(f"{name} is {getattr(config, name)}; it must be in [0, 1)")
