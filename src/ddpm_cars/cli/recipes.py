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


def with_paths_of_recipes(argv: Iterable[str]) -> list[str]:
    """Return a command line in which every `--config` has a path: `--config cars64` names a recipe.

    Raises:
        UserError: If what follows is neither a file nor the name of a recipe.
    """
    found: list[str] = []
    for argument in argv:
        flag, equals, value = argument.partition("=")
        if found and found[-1] == "--config":
            found[-1:] = ["--config", find_recipe(argument)]
        elif flag == "--config" and equals:
            found.append(f"--config={find_recipe(value)}")
        else:
            found.append(argument)
    return found


def find_recipe(name: str) -> str:
    """Return the path of a file of settings: `name` itself if there is such a file, otherwise the recipe of that name.

    Raises:
        UserError: If there is neither.
    """
    if Path(name).is_file():
        return name
    names, stem = recipe_names(), Path(name).stem
    if name in names:
        return str(_FOLDER / f"{name}.yaml")
    if stem in names:
        raise UserError(f"--config {name} is not a file; give --config {stem}, the recipe of that name")
    similar = difflib.get_close_matches(stem, names, n=1)
    hint = f"did you mean {similar[0]}? " if similar else ""
    raise UserError(f"--config {name} is neither a file nor a recipe; {hint}The recipes are {', '.join(names)}")


def find_network(name: str | None) -> str | None:
    """Return the path of a network's JSON file: `name` itself unless it is only there beside the recipes."""
    if name is None or Path(name).exists() or not (_FOLDER / name).is_file():
        return name
    return str(_FOLDER / name)
