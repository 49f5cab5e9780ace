"""TODO src/ddpm_cars/config/fields.py."""

import math
import os
import types
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ddpm_cars.errors import UserError

_MISFIT = object()


def fit_types(config: Any) -> None:
    """Make every field of a config what its type says: a path a text, a list or a lone value a tuple.

    Raises:
        UserError: For the first field that cannot be, with what it can be.
    """
    kinds = get_type_hints(type(config))
    for name in (field.name for field in fields(config)):
        value, kind = getattr(config, name), kinds[name]
        fitting = _fit(value, kind)
        if fitting is _MISFIT:
            raise UserError(f"{name} is {value!r}; it must be {_in_words(kind)}")
        # The config is frozen for everybody else.
        object.__setattr__(config, name, fitting)


def _fit(value: Any, kind: Any) -> Any:
    """Return a value as the type of a field, or _MISFIT."""
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
        # To Python a bool is a number.
        is_number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        return kind(value) if is_number else _MISFIT
    return value if isinstance(value, kind) else _MISFIT


def _in_words(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_in_words(member) for member in get_args(kind))
    if get_origin(kind) is tuple:
        return f"a list, of which each is {_in_words(get_args(kind)[0])}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    return {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}.get(kind, "None")


def at_least(config: Any, minimum: float, *names: str) -> None:
    """Raise a UserError for the first of the named fields that is a number below `minimum` or not finite."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not minimum <= value < math.inf:
            raise UserError(f"{name} is {value}; it must be {minimum} or more, and finite")


def above_zero(config: Any, *names: str) -> None:
    """Raise a UserError for the first of the named fields that is a number and not a finite one above 0."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{name} is {value}; it must be above 0, and finite")


def in_unit_interval(config: Any, *names: str) -> None:
    """Raise a UserError for the first of the named fields that is not in [0, 1)."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise UserError(f"{name} is {getattr(config, name)}; it must be in [0, 1)")
