"""Commands, code and paths in the documentation exist."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks
from ddpm_cars.cli.commands import COMMANDS
from ddpm_cars.cli.parser import Parser
from ddpm_cars.config import TrainingConfig

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*/recipes/*.yaml"))]
PAGES += sorted(ROOT.glob("studies/*.md")) + sorted((ROOT / "src/ddpm_cars/recipes").glob("*.yaml"))
PLACES = ("scripts/", "studies/", "benchmarks/", "tests/", "docs/", "src/")


def blocks(page: Path, language: str) -> list[str]:
    """Return the blocks of a language on a page; the comment at the top of a YAML file is one of commands."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".yaml":
        return [re.sub(r"^# ?", "", text.split("\narguments")[0], flags=re.MULTILINE)] if language == "bash" else []
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(block: str) -> Iterator[list[str]]:
    """Yield the command lines of a block in words, with its variables put in."""
    for name, value in re.findall(r"^(\w+)=\"(.*?)\"$", block, re.MULTILINE | re.DOTALL):
        block = block.replace(f"${name} ", f"{' '.join(value.split())} ")
    for line in block.replace("\\\n", " ").splitlines():
        if re.match(r"\s*(python|ddpm-cars|accelerate|ACCELERATE_USE_CPU|OMP_NUM_THREADS)\b", line):
            yield shlex.split(line, comments=True)


def shown(language: str) -> list:
    return [
        pytest.param(block, id=f"{page.relative_to(ROOT)}-{i}")
        for page in PAGES
        for i, block in enumerate(blocks(page, language))
    ]


@pytest.mark.parametrize("block", [p for p in shown("bash") if any(commands(p.values[0]))])
def test_commands_are_understood(block: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    for words in commands(block):
        for place in ("ddpm-cars", "ddpm_cars", "benchmarks", *(w for w in words if w.startswith("studies."))):
            if place in words:
                rest = words[words.index(place) + 1 :]
                break
        else:
            assert Path(words[1]).exists(), words
            continue
        if place == "benchmarks":
            benchmarks.read_arguments(rest)
        elif place == "studies.train_stock":
            Parser(TrainingConfig).parse(rest)
        elif place.startswith("studies."):
            study = importlib.import_module(place)
            assert study.read_arguments(rest)
        elif not rest[0].startswith("--"):
            command = COMMANDS[rest[0]]
            if "--help" not in rest:
                Parser(command.config_class, command.positional).parse(rest[1:])


@pytest.mark.parametrize("block", shown("python"))
def test_code_imports_what_exists(block: str):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_of_the_project_exist(page: Path):
    found = re.findall(rf"(?:(?<=`)|(?<= ))((?:{'|'.join(PLACES)})[\w./-]*[\w/])", page.read_text(encoding="utf-8"))
    assert [path for path in found if page.name != "CHANGELOG.md" and not (ROOT / path).exists()] == []
