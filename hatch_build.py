"""The description of the package on an index: the README, whose relative links and images an index cannot follow."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_IMAGE = re.compile(r"!\[([^\]]*)\]\((?!https?:)([^)]+)\)")
_CAPTION = r"\n(?:\n\*[^*]+\*\n)?"
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)")


class DescriptionHook(MetadataHookInterface):
    """Sets the description of the package: `dynamic = ["readme"]`."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Put the description into the metadata of the project."""
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = description(readme, metadata.get("urls", {}).get("Repository"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def description(readme: str, repository: str | None) -> str:
    """Return the README as an index can show it.

    Args:
        readme: Markdown. Its paths are relative to the repository.
        repository: The address of the repository, whose branch `main` has the files. None if it has no public address:
            links become their words, and images go, each with the line of italics below it.
    """
    if repository is None:
        return _LINK.sub(r"\1", re.sub(_IMAGE.pattern + _CAPTION, "", readme))
    address = repository.rstrip("/")
    with_images = _IMAGE.sub(rf"![\1]({address}/raw/main/\2)", readme)
    return _LINK.sub(rf"[\1]({address}/blob/main/\2)", with_images)
