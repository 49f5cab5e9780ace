"""Pages of the site that have no file in docs/: README.md, CHANGELOG.md, the notebook and the public names."""

import ast
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "ddpm_cars"
OUTSIDE = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Files of the root that are pages of the site as well."""


def as_page(text: str) -> str:
    """Return the text of a file of the root with the links that hold inside docs/."""
    for name, page in OUTSIDE.items():
        text = text.replace(f"]({name}", f"]({page}")
    return text.replace("](docs/", "](").replace("first_model.ipynb)", "first_model.md)")


def public_names(init: Path) -> tuple[str, list[str]]:
    """Return the docstring of a package and what its `__all__` lists, without importing it."""
    tree = ast.parse(init.read_text(encoding="utf-8"))
    assigned = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    names = ast.literal_eval(assigned["__all__"]) if "__all__" in assigned else []
    return ast.get_docstring(tree) or "", sorted(names, key=str.lower)


def api_pages() -> dict[str, str]:
    """Return the pages of the public names, the package's own first, by the path of the page."""
    pages: dict[str, str] = {}
    _, of_the_package = public_names(PACKAGE / "__init__.py")
    wings = sorted(PACKAGE.glob("*/__init__.py"))
    for path in [PACKAGE / "__init__.py", *sorted(PACKAGE.glob("*_ddpm_cars.py")), *wings]:
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        docstring, names = public_names(path)
        if path.name != "__init__.py":
            # The classes of the two modules that saved models name are on the page of the package.
            names = [name for name in names if name not in of_the_package]
        if names:
            entries = "\n".join(f"::: {module}.{name}\n" for name in names)
            pages[f"api/{module}.md"] = f"# {module}\n\n{docstring}\n\n{entries}"
    return pages


def notebook_page(notebook: dict[str, Any]) -> str:
    """Write a notebook as Markdown: its text, its code, and what the code printed and showed.

    Args:
        notebook: The JSON of a notebook of format 4.
    """
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                png = "".join(data["image/png"]).replace("\n", "")
                parts.append(f"![What the code above shows](data:image/png;base64,{png})")
            else:
                text = "".join(output.get("text", data.get("text/plain", ""))).rstrip()
                parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the public names at the end of the navigation."""
    assert config.nav is not None
    config.nav.append({"Public names": [{Path(path).stem: path} for path in api_pages()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that have no file of their own in docs/."""
    pages = {page: as_page((ROOT / name).read_text(encoding="utf-8")) for name, page in OUTSIDE.items()}
    notebook = (ROOT / "docs" / "first_model.ipynb").read_text(encoding="utf-8")
    pages["first_model.md"] = notebook_page(json.loads(notebook))
    for path, text in {**pages, **api_pages()}.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Lead from a page to the rendered notebook, where the source links to the file."""
    return re.sub(r"\]\(first_model\.ipynb\)", "](first_model.md)", markdown)
