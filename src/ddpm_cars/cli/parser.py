"""Command lines are read into configs. This is the only file that knows the library that reads them."""

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, NoReturn, TypeVar

import yaml
from jsonargparse import ArgumentParser, get_loader, set_loader, set_parsing_settings

from ddpm_cars.cli.messages import end
from ddpm_cars.cli.recipes import find_network, recipe_names, with_paths_of_recipes
from ddpm_cars.cli.stock_flags import with_cures
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.errors import UserError

Config = TypeVar("Config")

set_parsing_settings(docstring_parse_attribute_docstrings=True)
_read_yaml = get_loader("yaml")


def _read_settings(text: str) -> Any:
    values = _read_yaml(text)
    # In YAML, the word no is false; as a precision it is the choice "no".
    if isinstance(values, dict) and values.get("mixed_precision") is False:
        values["mixed_precision"] = "no"
    return values


set_loader("yaml", _read_settings, exceptions=(yaml.YAMLError,))


class Parser(ArgumentParser):
    """A parser that reports a mistake in one line, with a cure."""

    setting_names: Sequence[str] = ()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit with 2."""
        end(str(self.prog), 2, f"error: {with_cures(' '.join(message.split()), self.setting_names)}")


def parse(
    config_class: type[Config], argv: Sequence[str] | None = None, positional: bool = False, prog: str | None = None
) -> tuple[Config, Parser]:
    """Build a config from `--config` files and flags; of settings given twice the later one counts.

    Args:
        config_class: A dataclass of `ddpm_cars.config`.
        argv: The command line without the program's name; None is that of the process.
        positional: Whether settings without a default are given by position instead of by flags.
        prog: What the user has typed to start the command; None is the name of the script.

    Returns:
        The config, and the parser, whose `error` reports what is found later.
    """
    parser = make_parser(config_class, positional, prog)
    arguments = _with_values(sys.argv[1:] if argv is None else argv, _switches(config_class))
    arguments = _with_brackets(arguments, _lists(config_class))
    try:
        arguments = with_paths_of_recipes(arguments, issubclass(config_class, TrainingConfig))
        values = parser.parse_args(arguments).as_dict()
        values.pop("config")
        if "model_config" in values:
            values["model_config"] = find_network(values["model_config"])
        return config_class(**values), parser
    except UserError as error:
        parser.error(str(error))


def make_parser(config_class: type, positional: bool = False, prog: str | None = None) -> Parser:
    """Return the parser of a command; its arguments are those of `parse`."""
    can_be_unset = any("None" in str(field.type) for field in fields(config_class))
    hints = {
        "A switch may stand alone; it means true.": _switches(config_class),
        "A list takes several words, one after the other.": _lists(config_class),
        "null means that a setting is unset.": can_be_unset,
    }
    epilog = " ".join(hint for hint, applies in hints.items() if applies)
    parser = Parser(prog=prog, description=config_class.__doc__, epilog=epilog, allow_abbrev=False)
    flagged = (f for f in fields(config_class) if not positional or f.default is not MISSING)
    parser.setting_names = [field.name for field in flagged]
    # The recipes hold settings of training.
    names = ", ".join(recipe_names()) if issubclass(config_class, TrainingConfig) else ""
    recipes = f", or the name of a recipe: {names}" if names else ""
    parser.add_argument("--config", action="config", help=f"YAML file with any of the settings below{recipes}.")
    parser.add_class_arguments(config_class, as_positional=positional)
    return parser


def _switches(config_class: type) -> set[str]:
    return {f"--{field.name}" for field in fields(config_class) if field.type is bool}


def _lists(config_class: type) -> dict[str, bool]:
    """Return the flags that take lists, and whether of strings."""
    kinds = {f"--{field.name}": str(field.type) for field in fields(config_class)}
    return {flag: "str" in kind for flag, kind in kinds.items() if "tuple[" in kind}


def _with_values(argv: Sequence[str], switches: Collection[str]) -> list[str]:
    """Replace a switch that stands alone: `--use_ema` by `--use_ema=true`."""
    return [
        f"{argument}=true" if argument in switches and follower.startswith("-") else argument
        for argument, follower in zip(argv, [*argv[1:], "--"], strict=False)
    ]


def _with_brackets(argv: Sequence[str], lists: Mapping[str, bool]) -> list[str]:
    """Replace words after the flag of a list: `--class_labels red 2` by `--class_labels '["red", "2"]'`.

    Args:
        argv: The command line.
        lists: The flags that take lists, and whether of strings.
    """
    gathered, rest = [], list(argv)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if flag not in lists:
            gathered.append(flag + equals + value)
            continue
        values = [value] if equals else []
        while rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        if values and values[0] != "null" and not values[0].startswith("["):
            # YAML does not read the pairs of escapes that JSON writes for some characters.
            words = (json.dumps(value, ensure_ascii=False) if lists[flag] else value for value in values)
            values = [f"[{', '.join(words)}]"]
        gathered += [flag, *values]
    return gathered
