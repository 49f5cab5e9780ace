"""Command lines are read into configs: flags win over files of settings, and later ones over earlier ones."""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar, get_type_hints

from ddpm_cars.cli.endings import end
from ddpm_cars.cli.help import as_given, format_help, format_settings
from ddpm_cars.config.fields import Settings
from ddpm_cars.config.hints import cure
from ddpm_cars.config.recipes import find_settings, recipe_names
from ddpm_cars.config.values import SWITCHES, Written, is_list, members
from ddpm_cars.config.yaml_files import read_list
from ddpm_cars.errors import UserError

Config = TypeVar("Config", bound=Settings)

_BY_ITSELF = ("pretrained_model_name_or_path", "train_data_dir", "output_dir")
"""Settings that a word without a flag is most likely meant for, the likeliest first."""


@dataclass
class _Line:
    """What stands in a command line."""

    files: list[str] = field(default_factory=list)  # What follows --config.
    settings: dict[str, Written] = field(default_factory=dict)  # Of a setting that is given twice, the later value.
    problems: list[str] = field(default_factory=list)
    wants_help: bool = False
    wants_settings: bool = False


class Parser(Generic[Config]):
    """Reads the command lines of one command.

    Args:
        config_class: The settings.
        positional: Whether settings without a default are given by position.
        prog: What the user has typed to start the command; None is the name of the script.
    """

    def __init__(self, config_class: type[Config], positional: bool = False, prog: str | None = None):
        self.config_class = config_class
        self.prog = Path(sys.argv[0]).name if prog is None else prog
        self.fields: dict[str, Field] = {f.name: f for f in fields(config_class)}  # type: ignore[arg-type]
        self.needed = [name for name, f in self.fields.items() if f.default is MISSING]
        self.by_position = self.needed if positional else []
        self.flags = [name for name in self.fields if name not in self.by_position]
        self._kinds = get_type_hints(config_class)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2. Settings that it tells to give are written as the flags that they are."""
        # A name of one word is a word of the sentence too, unless an explanation follows it.
        flags = "|".join(name if "_" in name else rf"{name}(?= [(\"])" for name in self.flags)
        # What comes before says what is wrong, in the words of a file of settings too.
        wrong, mark, mend = ("", "", message) if message.startswith("give ") else message.partition(";")
        if flags:
            mend = re.sub(rf"(?<![\w/.-])({flags})(?![\w/.])", r"--\1", mend)
        end(self.prog, 2, f"error: {wrong}{mark}{mend}")

    def parse(self, argv: Sequence[str] | None = None) -> Config:
        """Return the config that a command line asks for; ends the process with one line if there is none.

        If `argv` is None, it is the command line of the process.
        """
        line = self._split(list(sys.argv[1:] if argv is None else argv))
        if line.wants_help:
            print(format_help(self.config_class, self.prog, self.by_position))
            sys.exit(0)
        try:
            values = self._values(line)
        except UserError as error:
            # This speaks of flags already, or of a file, where settings are no flags.
            end(self.prog, 2, f"error: {error}")
        if line.wants_settings:
            print(format_settings(self.config_class, values), end="")
            sys.exit(0)
        try:
            return self.config_class(**values)
        except UserError as error:
            self.error(str(error))

    def _values(self, line: _Line) -> dict[str, Any]:
        if line.problems:
            raise UserError("; ".join(line.problems))
        values: dict[str, Any] = {}
        for name in line.files:
            try:
                path = find_settings(name, self.config_class.takes_recipes)
            except UserError as error:
                raise UserError(f"--config {error}") from error
            values |= self.config_class.read_file(path)
        for name, written in line.settings.items():
            values |= self.config_class.read(name, written)
        if not line.wants_settings and (missing := [name for name in self.needed if name not in values]):
            nouns = " and ".join(map(self._as_given, missing))
            shown = f": {self.prog} {' '.join(map(self._as_given, self.needed))}" if self.by_position else ""
            raise UserError(f"give {nouns}{shown}")
        return values

    def _as_given(self, name: str) -> str:
        if name == "config":
            return "--config FILE"
        return as_given(self.config_class, name, self.by_position)

    def _split(self, words: list[str]) -> _Line:
        line, strays = _Line(), []
        while words:
            word = words.pop(0)
            flag, equals, value = word.partition("=")
            name = flag.removeprefix("--")
            if word in ("-h", "--help"):
                line.wants_help = True
            elif flag == "--print_config":
                line.wants_settings = True
            elif not _is_flag(word):
                strays.append(word)
            elif flag.startswith("--") and name in (*self.flags, "config"):
                self._put(line, name, [value] if equals else [], words)
            else:
                _until_flag(words)
                hint = cure(name.removeprefix("-"), self.config_class, self.by_position)
                line.problems.append(f"there is no {flag}" + (f"; {hint}" if hint else ""))
        if strays == ["help"]:
            return _Line(wants_help=True)
        for name in self.by_position:
            if strays:
                line.settings[name] = Written(strays.pop(0))
        line.problems += self._about_strays(strays, line)
        return line

    def _put(self, line: _Line, name: str, given: list[str], words: list[str]) -> None:
        """Put a setting into a line: `given` is what its flag has after =, and more is taken off the next words."""
        kind = self._kinds.get(name)
        is_switch = bool in members(kind)
        if is_list(kind):
            given = given + _until_flag(words)
        # A switch leaves alone what is given by position.
        may_be_other = is_switch and self.by_position and words and words[0].lower() not in SWITCHES
        if not given and words and not _is_flag(words[0]) and not may_be_other:
            given = [words.pop(0)]
        if not given and is_switch:
            given = ["true"]
        if not given:
            line.problems.append(f"--{name} has no value; give {self._as_given(name)}")
        elif name == "config":
            line.files += given
        else:
            line.settings[name] = _as_list(given) if is_list(kind) else Written(given[0])

    def _about_strays(self, strays: list[str], line: _Line) -> list[str]:
        """Return what to say of words that are no value of a flag."""
        if not strays:
            return []
        said = shlex.join(strays)
        if len(strays) == 1 and self.config_class.takes_recipes and strays[0] in recipe_names():
            return [f"{said} is given without its flag; give --config {said}"]
        if len(strays) == 2 and "compare" in self.flags:
            return [f"{said} are given without their flag; give --compare {said}"]
        for name in _BY_ITSELF:
            if name in self.flags and name not in line.settings and len(strays) == 1:
                return [f"{said} is given without its flag; give --{name} {said}"]
        which = f"{said} belongs" if len(strays) == 1 else f"{said} belong"
        return [f"{which} to no setting; write --SETTING VALUE, as {self.prog} --help lists them"]


def _is_flag(word: str) -> bool:
    return re.match(r"--|-[A-Za-z]", word) is not None


def _until_flag(words: list[str]) -> list[str]:
    taken = []
    while words and not _is_flag(words[0]):
        taken.append(words.pop(0))
    return taken


def _as_list(given: list[str]) -> Written:
    """Return the words after the flag of a list; one word may be null, or a list in brackets as in a file."""
    if len(given) == 1:
        return read_list(given[0]) if given[0].startswith("[") else Written(given[0])
    return Written(" ".join(given), tuple(map(Written, given)))
