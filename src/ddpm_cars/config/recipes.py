"""Recipes: files of settings for training that come with the package and are known by name."""

import difflib
import os
from pathlib import Path

from ddpm_cars.errors import UserError

_FOLDER = Path(__file__).parents[1] / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the recipes, in alphabetical order."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def find_settings(name: str, takes_recipes: bool) -> str:
    """Return the path of a file of settings.

    Args:
        name: Its path, or the name of a recipe.
        takes_recipes: Whether it may be a recipe: those are for training.

    Raises:
        UserError: If it is neither a file nor a recipe.
    """
    # A shell's <(command) is a pipe.
    if os.path.exists(name) and not os.path.isdir(name):
        return name
    names, stem = recipe_names(), Path(name).stem
    if not takes_recipes:
        raise UserError(f"{name} is not a file" + ("; recipes are for training" if stem in names else ""))
    if name in names:
        return str(_FOLDER / f"{name}.yaml")
    if stem in names:
        raise UserError(f"{name} is not a file; give {stem}, the recipe of that name")
    similar = difflib.get_close_matches(stem, names, n=1)
    hint = f" (did you mean {similar[0]}?)" if similar else ""
    raise UserError(f"{name} is neither a file nor a recipe{hint}; the recipes are {', '.join(names)}")


def find_network(name: str) -> str:
    """Return the path of a network's JSON file: `name` itself unless it is only there beside the recipes."""
    return str(_FOLDER / name) if not os.path.exists(name) and os.path.isfile(_FOLDER / name) else name
