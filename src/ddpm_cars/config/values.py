"""The values of settings: how each kind is written, what fits it, and what is said of a value that does not."""

import math
import os
import re
import types
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin

from ddpm_cars.errors import UserError

MISFIT = object()
"""What `fit` returns for a value that does not have the type."""
SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
"""How a switch may be written, in any case of letters."""
LEADING_ZERO = r"[-+]?0[\d_]+"
"""How a number begins that is 10 or 8 when it is written 010, depending on the program that reads it."""
_NULLS = ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True)
class Written:
    """A value as a person has written it in a file or a command, where its kind is not known yet.

    Attributes:
        text: The words, without quotes.
        items: The items, if it is a list.
        is_quoted: Whether it has quotes, so that null is a word.
        is_mapping: Whether it has settings of its own, which no setting has.
        place: The file and the line, "toy.yaml, line 3: "; empty for a command.
    """

    text: str
    items: tuple["Written", ...] | None = None
    is_quoted: bool = False
    is_mapping: bool = False
    place: str = ""

    def value(self, kind: Any) -> Any:
        """Return what the words mean as a value of a type; where they mean nothing, what no type fits, or the text."""
        kinds = members(kind)
        inner = next((get_args(member)[0] for member in kinds if get_origin(member) is tuple), None)
        if self.items is not None and inner is not None:
            return tuple(item.value(inner) for item in self.items)
        if self.items is not None or self.is_mapping:
            return MISFIT
        if not self.is_quoted and (self.text in _NULLS or (self.text == "None" and types.NoneType in kinds)):
            return None
        if inner is not None:
            if "," in self.text and str not in members(inner):
                return tuple(replace(self, text=part.strip()).value(inner) for part in self.text.split(","))
            return self.value(inner)
        if str in kinds:
            # A shell expands ~ only where a word begins.
            return os.path.expanduser(self.text) if re.match(r"~(/|$)", self.text) else self.text
        if bool in kinds and self.text.lower() in SWITCHES:
            return SWITCHES[self.text.lower()]
        if {int, float} & set(kinds) and re.fullmatch(LEADING_ZERO, self.text):
            return MISFIT
        if int in kinds and re.fullmatch(r"[-+]?\d+(_\d+)*", self.text):
            with suppress(ValueError):  # Python reads up to 4,300 digits.
                return int(self.text)
        if float in kinds:
            with suppress(ValueError):
                return float(self.text)
        choices = {choice.lower(): choice for choice in kinds_of(kind) if isinstance(choice, str)}
        if SWITCHES.get(self.text.lower()) is False and "no" in choices:
            # In a YAML file, the word no is false elsewhere.
            return "no"
        return choices.get(self.text.lower(), self.text)


def members(kind: Any) -> tuple[Any, ...]:
    """Return the types that a type is a union of, itself if it is none."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def is_list(kind: Any) -> bool:
    """Return whether a type is a list, or a union with one."""
    return any(get_origin(member) is tuple for member in members(kind))


def kinds_of(kind: Any) -> list[Any]:
    """Return the types that a value, or an item of a list, may have, and the choices."""
    if get_origin(kind) is tuple:
        return kinds_of(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    if len(members(kind)) > 1:
        return [inner for member in members(kind) for inner in kinds_of(member)]
    return [kind]


def fit(value: Any, kind: Any) -> Any:
    """Return a value converted to the type of a field, or MISFIT."""
    if len(members(kind)) > 1:
        fitting = (fit(value, member) for member in members(kind))
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
        with suppress(OverflowError):
            return kind(value) if is_number else MISFIT
        return MISFIT
    return value if isinstance(value, kind) else MISFIT


def shown(value: Any) -> str:
    """Return a value as a message shows it: text has quotes only where it could be taken for something else."""
    if not isinstance(value, str) or value in (*_NULLS, "None") or value.lower() in SWITCHES or value != value.strip():
        return repr(value)
    with suppress(ValueError):
        float(value)
        return repr(value)
    return value


def either(words: Sequence[str]) -> str:
    """Return words as a choice: "tiny, 32 or 64"."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def options(kind: Any, in_python: bool = True) -> list[str]:
    """Return what values a type has: "adam", "adamw"; `in_python` says how true, false and null are spelled."""
    if len(members(kind)) > 1:
        return [option for member in members(kind) for option in options(member, in_python)]
    if get_origin(kind) is tuple:
        return [f"a list in which every item is {either(options(get_args(kind)[0], in_python))}"]
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    names = {int: "a whole number", float: "a number", str: "a string"}
    constants = {bool: ("True or False", "true or false"), types.NoneType: ("None", "null")}
    return [names[kind] if kind in names else constants[kind][not in_python]]


def check_range(
    name: str,
    value: Any,
    minimum: float | None = None,
    above: float | None = None,
    below: float = math.inf,
    said: str | None = None,
) -> None:
    """Raise UserError if a number, or one of several, is out of range.

    The limits are those of `setting`; `said` is how the user has written the value, where that is known.
    """
    items, subject = (value, "every item") if isinstance(value, tuple) else ((value,), "it")
    if minimum is not None:
        is_in_range = all(minimum <= item < below for item in items)
        finite = "" if all(isinstance(item, int) for item in items) else ", and finite"
        words = f"{minimum} or more{finite}" if below == math.inf else f"in [{minimum}, {below})"
        if not finite and below < math.inf:
            words = f"{minimum} or more" if min(items) < minimum else f"less than {below}"
    else:
        is_in_range = above is None or all(above < item < below for item in items)
        words = f"above {above}, and finite"
    if not is_in_range:
        raise UserError(f"{name} is {value if said is None else said}; {subject} must be {words}")


def check_repo_id(name: str, repo_id: str) -> None:
    """Raise UserError if a setting cannot be a repository on the Hub, by the rules of the Hub."""
    is_name = re.fullmatch(r"([\w.-]+/)?(?=.{1,96}$)[\w.-]+", repo_id, re.ASCII) is not None
    edges = re.search(r"(^|/)[.-]|[.-](/|$)|--|\.\.|\.git$", repo_id)
    if not is_name or edges is not None:
        cure = "; give another name with hub_model_id" if name == "output_dir" else ""
        raise UserError(
            f"{name} {repo_id} cannot be the name of a repository: it is NAME or OWNER/NAME, of letters without "
            f"accents, digits, _, - and . (but neither -- nor .., and neither - nor . at an end){cure}"
        )
