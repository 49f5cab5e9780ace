"""What the settings are for: the docstrings of their fields, which are `--help` and the comments of a file."""

import ast
import sys
from functools import cache
from pathlib import Path


@cache
def _docstrings(path: str) -> dict[str, dict[str, str]]:
    """Return the docstrings of the fields of every class in a source file."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(Path(path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            about = found[node.name] = {}
            for field, after in zip(node.body, node.body[1:], strict=False):
                text = getattr(getattr(after, "value", None), "value", None)
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, str):
                    about[field.target.id] = " ".join(text.split())
    return found


def descriptions(config_class: type) -> dict[str, str]:
    """Return the docstrings of the fields of a config, those that it inherits too."""
    found: dict[str, str] = {}
    for owner in reversed(config_class.__mro__):
        path = getattr(sys.modules.get(owner.__module__), "__file__", None)
        if path is not None:
            found |= _docstrings(path).get(owner.__name__, {})
    return found
