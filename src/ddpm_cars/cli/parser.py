"""TODO src/ddpm_cars/cli/parser.py."""

import os
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import NoReturn, TypeVar

from jsonargparse import ArgumentParser

from ddpm_cars.cli.stock_flags import gather_lists, spell_out_switches, with_cures
from ddpm_cars.errors import UserError

Config = TypeVar("Config")


class _Parser(ArgumentParser):
    setting_names: Sequence[str] = ()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit with 2."""
        # Of several processes with one command line, the first one speaks.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            line = with_cures(" ".join(message.split()), self.setting_names)
            print(f"{self.prog}: error: {line}", file=sys.stderr)
        sys.exit(2)


def parse(
    config_class: type[Config], argv: Sequence[str] | None = None, positional: bool = False
) -> tuple[Config, _Parser]:
    """Build a config from `--config` files and flags; of settings given twice the later one counts.

    Args:
        config_class: A dataclass of `ddpm_cars.config`.
        argv: The command line without the program's name; None is that of the process.
        positional: Whether settings without a default are given by position instead of by flags.

    Returns:
        The config, and the parser, whose `error` reports what is found later.
    """
    types = {f"--{field.name}": field.type for field in fields(config_class)}  # type: ignore[arg-type]
    switches = {flag for flag, kind in types.items() if kind is bool}
    lists = {flag: "str" in str(kind) for flag, kind in types.items() if "tuple[" in str(kind)}
    hints = {"Switches may stand alone.": switches, "Lists take several words, one after the other.": lists}
    epilog = " ".join(hint for hint, flags in hints.items() if flags)
    parser = _Parser(description=config_class.__doc__, epilog=epilog, allow_abbrev=False)
    flagged = (f for f in fields(config_class) if not positional or f.default is not MISSING)  # type: ignore[arg-type]
    parser.setting_names = [field.name for field in flagged]
    parser.add_argument("--config", action="config", help="YAML file with any of the settings below.")
    parser.add_class_arguments(config_class, as_positional=positional)
    arguments = spell_out_switches(sys.argv[1:] if argv is None else argv, switches)
    values = parser.parse_args(gather_lists(arguments, lists)).as_dict()
    values.pop("config")
    try:
        return config_class(**values), parser
    except UserError as error:
        parser.error(str(error))
