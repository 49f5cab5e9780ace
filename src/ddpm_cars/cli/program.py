"""`ddpm-cars COMMAND`: finds the command, and helps where none is given."""

import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ddpm_cars import __version__
from ddpm_cars.cli.commands import COMMANDS
from ddpm_cars.cli.completion import SHELLS, completion_script
from ddpm_cars.cli.endings import end, ended_in_one_line

_PROGRAM = "ddpm-cars"
_WORDS = {
    "train": ("fit", "run", "learn", "finetune"),
    "sample": ("generate", "inference", "infer", "predict", "draw"),
    "show": ("preview", "view", "inspect"),
    "evaluate": ("test", "eval", "validate", "score", "fid", "metrics", "compare"),
    "push": ("publish", "upload", "hub", "share"),
    "demo": ("gui", "ui", "web", "webui", "serve", "app", "launch", "gradio"),
    "toy-cars": ("toycars", "toy", "cars", "data", "dataset", "download"),
}
"""What other programs call the commands."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command of `ddpm-cars`.

    Args:
        argv: The command and its settings; None is the command line of the process.
    """
    is_module = Path(sys.argv[0]).parts[-2:] == ("ddpm_cars", "__main__.py")
    prog = "python -m ddpm_cars" if is_module else _PROGRAM
    words = [*(sys.argv[1:] if argv is None else argv)] or [""]
    if words[0] == "help":
        # `help train` is `train --help`.
        words = [*words[1:2], "--help"]
    name, *rest = words
    with ended_in_one_line(prog):
        if name in COMMANDS:
            COMMANDS[name](rest, f"{prog} {name}")
        elif not name:
            print(_overview(prog), file=sys.stderr)
            sys.exit(2)
        elif name in ("-h", "--help"):
            print(_overview(prog))
        elif name in ("--version", "-V", "version"):
            print(f"{_PROGRAM} {__version__}")
        elif name == "--print_completion" and rest[:1] and rest[0] in SHELLS:
            print(completion_script(_PROGRAM, rest[0]))
        else:
            end(prog, 2, f"error: {_problem(prog, name)}; {prog} --help lists the commands")


def _overview(prog: str) -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.sentence}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {prog} COMMAND [--SETTING VALUE ...]",
            "",
            "Denoising diffusion (DDPM), from a folder of images to a published model.",
            "",
            "commands:",
            *lines,
            "",
            "options:",
            "  --help                     Show this text; after a command, show its settings.",
            "  --version                  Show the version.",
            f"  --print_completion SHELL   Print a script for shell completion: {', '.join(SHELLS)}.",
        ]
    )


def _problem(prog: str, name: str) -> str:
    if name == "--print_completion":
        return f"--print_completion takes one of {', '.join(SHELLS)}"
    if name.startswith("-"):
        return f"{name} comes before a command; write {prog} COMMAND {name}"
    if os.path.isdir(name):
        is_model = any(Path(name).glob("*_index.json"))
        command = "sample --pretrained_model_name_or_path" if is_model else "train --train_data_dir"
        return f"{name} is a folder, not a command; give {prog} {command} {name}"
    # Who has used the scripts may know a command by the name of its script.
    known = {other: other for other in COMMANDS} | {word: other for other, words in _WORDS.items() for word in words}
    known |= {command.run.__name__: other for other, command in COMMANDS.items()}
    similar = difflib.get_close_matches(name.lower().removesuffix(".py"), known, n=2)
    exact = known.get(name.lower().removesuffix(".py"))
    hint = exact or " or ".join(dict.fromkeys(known[match] for match in similar))
    return f"there is no command {name}" + (f" (did you mean {hint}?)" if hint else "")
