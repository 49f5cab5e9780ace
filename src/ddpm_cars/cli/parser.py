"""Command lines are read into configs. This is the only file that knows the library that reads them."""

import json
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, NoReturn, TypeVar, get_type_hints

import yaml
from jsonargparse import ArgumentParser, get_loader, set_loader, set_parsing_settings

from ddpm_cars.cli.recipes import find_network, recipe_names, with_paths_of_recipes
from ddpm_cars.cli.stock_flags import with_cures
from ddpm_cars.config.fields import AUTO, fit_setting
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.errors import UserError
from ddpm_cars.runtime.console import is_main_process

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


def end(prog: str, code: int, message: str) -> NoReturn:
    """Exit with `code` and one line, which says what went wrong with the command `prog` and how to mend it."""
    # Of several processes with one command line, the first one speaks.
    if is_main_process():
        print(f"{prog}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


class Parser(ArgumentParser):
    """A parser that reports a mistake in one line, with a cure."""

    setting_names: Sequence[str] = ()
    kinds: Mapping[str, Any] = {}  # The types of the settings.
    settings: Mapping[str, Any] = {}  # Their fields.

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit with 2."""
        line = " ".join(message.split())
        # jsonargparse names types as Python does.
        if (found := re.search(r'Parser key "(\w+)":.* value: (.*)$', line)) and found[1] in self.kinds:
            try:
                fit_setting(self.settings[found[1]], self.kinds[found[1]], found[2], said=found[2])
            except UserError as error:
                line = str(error)
        end(str(self.prog), 2, f"error: {with_cures(line, self.setting_names)}")


def parse(
    config_class: type[Config], argv: Sequence[str] | None = None, positional: bool = False, prog: str | None = None
) -> tuple[Config, Parser]:
    """Build a config from `--config` files and flags; of settings given twice the later one counts.

    `positional` says whether settings without a default are given by position; `argv` and `prog` are those of the
    process if they are None. The parser is returned too, whose `error` reports what is found later.
    """
    settings = fields(config_class)  # type: ignore[arg-type]
    switches = {f"--{field.name}" for field in settings if field.type is bool}
    # The flags that take lists, and whether of strings.
    lists = {f"--{field.name}": "str" in str(field.type) for field in settings if "tuple[" in str(field.type)}
    hints = {
        "A switch may stand alone; it means true.": switches,
        "A list takes several words, one after the other.": lists,
        "null means that a setting is unset.": any("None" in str(field.type) for field in settings),
    }
    epilog = " ".join(hint for hint, applies in hints.items() if applies)
    parser = Parser(prog=prog, description=config_class.__doc__, epilog=epilog, allow_abbrev=False)
    parser.kinds = get_type_hints(config_class)
    parser.settings = {field.name: field for field in settings}
    parser.setting_names = [f.name for f in settings if not positional or f.default is not MISSING]
    is_training = issubclass(config_class, TrainingConfig)
    recipes = f", or the name of a recipe: {', '.join(recipe_names())}" if is_training else ""
    parser.add_argument("--config", action="config", help=f"YAML file with any of the settings below{recipes}.")
    parser.add_class_arguments(config_class, as_positional=positional)
    arguments = _with_brackets(_with_values(sys.argv[1:] if argv is None else argv, switches), lists)
    try:
        values = parser.parse_args(with_paths_of_recipes(arguments, is_training)).as_dict()
        values.pop("config")
        if "model_config" in values:
            values["model_config"] = find_network(values["model_config"])
        return config_class(**values), parser
    except UserError as error:
        parser.error(str(error))


def _with_values(argv: Sequence[str], switches: Collection[str]) -> list[str]:
    """Replace a switch that stands alone: `--use_ema` by `--use_ema=true`."""
    return [
        f"{argument}=true" if argument in switches and follower.startswith("-") else argument
        for argument, follower in zip(argv, [*argv[1:], "--"], strict=False)
    ]


def _with_brackets(argv: Sequence[str], lists: Mapping[str, bool]) -> list[str]:
    """Replace words after the flag of a list: `--class_labels red 2` by `--class_labels '["red", "2"]'`."""
    gathered, rest = [], list(argv)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if flag not in lists:
            gathered.append(flag + equals + value)
            continue
        values = [value] if equals else []
        while rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        if values and values[0] not in ("null", AUTO) and not values[0].startswith("["):
            # YAML does not read the pairs of escapes that JSON writes for some characters.
            words = (json.dumps(value, ensure_ascii=False) if lists[flag] else value for value in values)
            values = [f"[{', '.join(words)}]"]
        gathered += [flag, *values]
    return gathered
