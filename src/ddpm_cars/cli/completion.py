"""A script that completes commands, flags, choices and files in a shell."""

import argparse
from typing import get_type_hints

import shtab

from ddpm_cars.cli.commands import COMMANDS
from ddpm_cars.cli.help import add_settings
from ddpm_cars.cli.parser import Parser
from ddpm_cars.config.recipes import recipe_names
from ddpm_cars.config.values import kinds_of

SHELLS = tuple(shtab.SUPPORTED_SHELLS)


def completion_script(prog: str, shell: str) -> str:
    """Return the script for one of SHELLS that completes the command lines of `prog`."""
    parser = argparse.ArgumentParser(prog)
    parser.add_argument("--version", action="store_true")
    commands = parser.add_subparsers()
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, help=command.sentence, add_help=False)
        kinds = get_type_hints(command.config_class)
        by_position = Parser(command.config_class, command.positional).by_position
        for setting, action in add_settings(own, command.config_class, by_position).items():
            # After a list that completes files, bash would offer no flag.
            if setting == "config" or (str in kinds_of(kinds[setting]) and not action.choices and action.nargs != "*"):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            if setting == "config" and command.config_class.takes_recipes:
                action.complete = {**shtab.FILE, "bash": "_config_files"}  # type: ignore[attr-defined]
    recipes = f'_config_files() {{ compgen -W "{" ".join(recipe_names())}" -- "$1"; compgen -f -- "$1"; }}'
    return shtab.complete(parser, shell, preamble=recipes if shell == "bash" else "")
