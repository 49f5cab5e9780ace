"""`--help` and `--print_config`: the settings of a command in groups, the most used first, and what they may be."""

import argparse
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, fields
from functools import partial
from types import NoneType
from typing import Any, get_type_hints

import yaml

from ddpm_cars.config.descriptions import descriptions
from ddpm_cars.config.fields import AUTO, Settings, grouped
from ddpm_cars.config.recipes import recipe_names
from ddpm_cars.config.values import is_list, kinds_of, members

_WIDTH_OF_FLAGS = 28


def choices_of(kind: Any, default: Any) -> list[str]:
    """Return the words that a setting takes, empty if it takes any."""
    kinds = kinds_of(kind)
    choices = ["true", "false"] if bool in kinds else [choice for choice in kinds if isinstance(choice, str)]
    return [*choices, AUTO] if choices and default == AUTO else choices


def noun(config_class: type[Settings], name: str) -> str:
    """Return what a setting takes, in a word: NUMBER, FOLDER, tiny|32|64."""
    kind = get_type_hints(config_class)[name]
    if choices := choices_of(kind, getattr(config_class, name, None)):
        return "|".join(choices)
    # The sentence about a text begins with what it is.
    return descriptions(config_class)[name].split()[0].strip(".,").upper() if str in kinds_of(kind) else "NUMBER"


def as_given(config_class: type[Settings], name: str, by_position: Collection[str]) -> str:
    """Return how a command line gives a setting: REPOSITORY by position, --seed NUMBER by a flag."""
    value = noun(config_class, name)
    return value if name in by_position else f"--{name} {value}"


def add_settings(
    parser: argparse.ArgumentParser, config_class: type[Settings], by_position: Collection[str] = ()
) -> dict[str, argparse.Action]:
    """Add the settings of a command to a parser that shows or completes them; it does not read command lines.

    Returns the actions of the settings, and of "config", by name.
    """
    actions: dict[str, argparse.Action] = {}
    about, kinds = descriptions(config_class), get_type_hints(config_class)
    for title, fields_of_group in grouped(config_class).items():
        group = parser.add_argument_group(title)
        for f in fields_of_group:
            actions[f.name] = group.add_argument(
                f.name if f.name in by_position else f"--{f.name}",
                nargs="?" if bool in kinds_of(kinds[f.name]) else "*" if is_list(kinds[f.name]) else None,
                metavar=noun(config_class, f.name),
                choices=choices_of(kinds[f.name], f.default) or None,
                help=f"{about[f.name]}{_default(f)}".replace("%", "%%"),
            )
    files = parser.add_argument_group("files of settings")
    recipes = f", or the name of a recipe: {', '.join(recipe_names())}" if config_class.takes_recipes else ""
    actions["config"] = files.add_argument(
        "--config", metavar="FILE", help=f"YAML file with any of these settings{recipes}. Flags win over it."
    )
    files.add_argument("--print_config", action="store_true", help="Print such a file with all settings, and stop.")
    files.add_argument("-h", "--help", action="store_true", help="Show this text.")
    return actions


def format_help(config_class: type[Settings], prog: str, by_position: Collection[str] = ()) -> str:
    """Return the text of `--help`, as wide as the terminal."""
    settings: tuple[Field, ...] = fields(config_class)  # type: ignore[arg-type]
    needed = [f.name for f in settings if f.default is MISSING]
    if not needed:
        needed = [f.name for f in settings if f.name == "train_data_dir" and config_class.takes_recipes]
    given = [as_given(config_class, name, by_position) for name in needed]
    kinds = list(get_type_hints(config_class).values())
    hints = {
        "A switch may stand alone; it means true.": any(bool in kinds_of(kind) for kind in kinds),
        "A list takes several words, one after the other.": any(map(is_list, kinds)),
        "null means that a setting is unset.": any(NoneType in members(kind) for kind in kinds),
    }
    parser = argparse.ArgumentParser(
        prog,
        usage=" ".join([prog, *given, "[--SETTING VALUE ...]"]),
        description=" ".join(str(config_class.__doc__).split()),
        epilog=" ".join(hint for hint, applies in hints.items() if applies),
        formatter_class=partial(argparse.HelpFormatter, max_help_position=_WIDTH_OF_FLAGS),
        add_help=False,
    )
    add_settings(parser, config_class, by_position)
    return parser.format_help().rstrip()


def format_settings(config_class: type[Settings], values: Mapping[str, Any]) -> str:
    """Return a YAML file with all settings of a config, some with other values than their defaults."""
    about = descriptions(config_class)
    groups = []
    for title, fields_of_group in grouped(config_class).items():
        text = f"# --- {title} ---\n"
        for f in fields_of_group:
            value = values.get(f.name, f.default)
            entry = {f.name: list(value) if isinstance(value, tuple) else value}
            is_missing = value is MISSING
            text += f"# {about[f.name]}\n"
            text += f"# {f.name}:\n" if is_missing else yaml.safe_dump(entry, allow_unicode=True, width=1000)
        groups.append(text)
    return "\n".join(groups)


def _default(about: Field) -> str:
    if about.default is MISSING:
        return " Required."
    value = about.default
    if value is None:
        # The sentence says what being unset means.
        return ""
    items = value if isinstance(value, tuple) else (value,)
    return f" Default: {' '.join(str(item).lower() if isinstance(item, bool) else str(item) for item in items)}."
