"""Recipes: files of settings that come with the package, which `--config` takes by name."""

import difflib
from collections.abc import Iterable
from pathlib import Path

import ddpm_cars
from ddpm_cars.errors import UserError

_FOLDER = Path(ddpm_cars.__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """Return the names that `--config` takes, in alphabetical order."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def with_paths_of_recipes(argv: Iterable[str], is_training: bool) -> list[str]:
    """Return a command line in which every `--config` has the path of a file; it may name a recipe only for training.

    Raises UserError if what follows `--config` is neither a file nor the name of a recipe.
    """
    found: list[str] = []
    for argument in argv:
        flag, equals, value = argument.partition("=")
        if found and found[-1] == "--config":
            found.append(_find(argument, is_training))
        elif flag == "--config" and equals:
            found += [flag, _find(value, is_training)]
        else:
            found.append(argument)
    return found


def _find(name: str, is_training: bool) -> str:
    # A shell's <(command) is a pipe.
    if Path(name).exists() and not Path(name).is_dir():
        return name
    names, stem = recipe_names(), Path(name).stem
    if not is_training:
        raise UserError(f"--config {name} is not a file" + ("; recipes are for training" if stem in names else ""))
    if name in names:
        return str(_FOLDER / f"{name}.yaml")
    if stem in names:
        raise UserError(f"--config {name} is not a file; give --config {stem}, the recipe of that name")
    similar = difflib.get_close_matches(stem, names, n=1)
    hint = f" (did you mean {similar[0]}?)" if similar else ""
    raise UserError(f"--config {name} is neither a file nor a recipe{hint}; the recipes are {', '.join(names)}")


def find_network(name: str | None) -> str | None:
    """Return the path of a network's JSON file: `name` itself unless it is only there beside the recipes."""
    if name is None or Path(name).exists() or not (_FOLDER / name).is_file():
        return name
    return str(_FOLDER / name)
