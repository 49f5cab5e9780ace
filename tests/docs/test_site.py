"""The site: it builds without a warning, needs no other server, and has every public name."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ["ddpm_cars", *(f"ddpm_cars.{path.parent.name}" for path in (ROOT / "src/ddpm_cars").glob("*/__init__.py"))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning of mkdocs, such as a link to nothing, ends the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    assert built.returncode == 0, built.stderr
    return folder


def test_pages_load_nothing_from_another_server(site: Path):
    loaded = re.compile(r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=[\"']?(https?:)?//[^>]*>")
    pages = [*site.rglob("*.html")]
    assert len(pages) > 25
    found = {match.group(0) for page in pages for match in loaded.finditer(page.read_text(encoding="utf-8"))}
    assert {tag for tag in found if 'rel="canonical"' not in tag} == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_an_entry(site: Path, package: str):
    names = getattr(importlib.import_module(package), "__all__", [])
    page = site / "api" / package / "index.html"
    text = page.read_text(encoding="utf-8") if names else ""
    assert [name for name in names if f'id="{package}.{name}"' not in text] == []


def test_the_readme_the_changes_and_the_notebook_are_pages(site: Path):
    for page, words in (("", "Two commands"), ("changelog", "0.1.0"), ("first_model", "Any folder with images")):
        assert words in (site / page / "index.html").read_text(encoding="utf-8")
