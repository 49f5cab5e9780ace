"""A script that completes commands, flags, choices and files in a shell."""

import argparse
from dataclasses import MISSING, fields
from typing import Any, get_args, get_origin

import shtab

from ddpm_cars.cli.commands import COMMANDS, Command
from ddpm_cars.cli.recipes import recipe_names
from ddpm_cars.config.training import TrainingConfig

SHELLS = tuple(shtab.SUPPORTED_SHELLS)


def completion_script(prog: str, shell: str) -> str:
    """Return the script for one of SHELLS that completes the command lines of `prog`."""
    # Not the parser that reads command lines: its own completion offers no flag after a switch that stands alone.
    parser = argparse.ArgumentParser(prog)
    parser.add_argument("--version", action="store_true")
    commands = parser.add_subparsers()
    for name, command in COMMANDS.items():
        _add_settings(commands.add_parser(name, help=command.sentence), command)
    recipes = f'_config_files() {{ compgen -W "{" ".join(recipe_names())}" -- "$1"; compgen -f -- "$1"; }}'
    return shtab.complete(parser, shell, preamble=recipes if shell == "bash" else "")


def _add_settings(parser: argparse.ArgumentParser, command: Command) -> None:
    is_training = issubclass(command.config_class, TrainingConfig)
    config = parser.add_argument("--config")
    config.complete = {**shtab.FILE, "bash": "_config_files"} if is_training else shtab.FILE  # type: ignore[attr-defined]
    parser.add_argument("--print_config", action="store_true")
    for field in fields(command.config_class):
        is_flag = not command.positional or field.default is not MISSING
        kinds = _kinds(field.type)
        choices = ["true", "false"] if bool in kinds else [kind for kind in kinds if isinstance(kind, str)]
        is_list = any(get_origin(kind) is tuple for kind in kinds)
        nargs = "?" if bool in kinds else "*" if is_list else None
        name = f"--{field.name}" if is_flag else field.name
        action = parser.add_argument(name, nargs=nargs, choices=choices or None)
        # After a list that completes files, bash would offer no flag.
        if not choices and not is_list and str in kinds:
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def _kinds(kind: Any) -> list[Any]:
    """Return a type with all types and choices inside it."""
    return [kind, *(part for inner in get_args(kind) for part in _kinds(inner))]
