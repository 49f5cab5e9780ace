"""What a package index, a citation and `make` say about the project, and what an installed package needs."""

import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import markdown
import pytest
import yaml
from packaging.requirements import Requirement

import ddpm_cars
from hatch_build import description
from tests.support.fresh_process import run_alone

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = "https://example.org/cars"


class Targets(HTMLParser):
    """The addresses of the images and links of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.images: list[str] = []
        self.links: list[str] = []
        self.feed(markdown.markdown(text, extensions=["fenced_code", "tables"]))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "img":
            self.images.append(str(found["src"]))
        if tag == "a":
            self.links.append(str(found["href"]))


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_link_and_image_of_the_description_leads_somewhere(readme: str):
    here, there = Targets(readme), Targets(description(readme, REPOSITORY + "/"))
    assert len(there.images) == len(here.images) >= 2
    assert len(there.links) == len(here.links)
    for before, after in zip(here.images + here.links, there.images + there.links, strict=True):
        kind = "raw" if before in here.images else "blob"
        relative = not before.startswith("https://")
        assert after == (f"{REPOSITORY}/{kind}/main/{before}" if relative else before)
        assert not relative or (ROOT / before.partition("#")[0]).exists()


def test_a_description_without_an_address_has_no_link_or_image_that_is_broken(readme: str):
    text = description(readme, None)
    found = Targets(text)
    assert found.images == []
    assert found.links == [link for link in Targets(readme).links if link.startswith("https://")]
    # The words of a link stay; the caption of an image goes with it.
    assert "[Install](docs/install.md)" in readme
    assert "| Install, " in text
    assert "Drawn by the model of `make demo`" in readme
    assert "Drawn by the model of `make demo`" not in text
    assert "What it reaches says how this was measured" in text


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert (citation["title"], citation["version"]) == (PROJECT["name"], ddpm_cars.__version__)
    assert citation["abstract"] == PROJECT["description"] + "."
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    (paper,) = citation["references"]
    assert paper["url"] == PROJECT["urls"]["Paper"]
    assert [author["family-names"] for author in paper["authors"]] == ["Ho", "Jain", "Abbeel"]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_alone_lists_the_targets_with_a_sentence_each_and_makes_nothing(tmp_path: Path, readme: str):
    shutil.copy(ROOT / "Makefile", tmp_path)
    done = subprocess.run(["make"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (phony,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:")]
    listed = {line.split()[1]: line.split(maxsplit=2)[2] for line in done.stdout.splitlines()}
    assert list(listed) == phony.split()[1:]
    for target in ("demo", "test"):
        assert f"make {target}    # {listed[target]}\n" in readme
    assert [path.name for path in tmp_path.iterdir()] == ["Makefile"]


def test_the_package_works_without_its_extras(tmp_path: Path):
    extras = {Requirement(line).name for lines in PROJECT["optional-dependencies"].values() for line in lines}
    assert not extras & {Requirement(line).name for line in PROJECT["dependencies"]}
    assert "transformers" in extras
    run_alone(
        f"""
import contextlib, importlib, io, pkgutil, sys
for name in {sorted(extras)!r}:
    sys.modules[name.replace("-", "_")] = None
import ddpm_cars
from ddpm_cars.errors import UserError
for module in pkgutil.walk_packages(ddpm_cars.__path__, "ddpm_cars."):
    if not module.name.startswith(("ddpm_cars.demo", "ddpm_cars.__main__")):
        importlib.import_module(module.name)
pipe = ddpm_cars.DDPMCarsPipeline.from_pretrained(ddpm_cars.pretrained())
assert pipe(num_inference_steps=1).images[0].size == (32, 32)
from ddpm_cars.evaluation.features import load_extractor
assert load_extractor("efficientnet-lite0").distance_name == "FD-EfficientNet"
try:
    load_extractor("dinov2")
except UserError as error:
    assert "needs transformers: pip install transformers" in str(error), error
else:
    raise AssertionError
from ddpm_cars.cli import main
errors = io.StringIO()
sys.argv = ["ddpm-cars", "demo"]
with contextlib.suppress(SystemExit), contextlib.redirect_stderr(errors):
    main()
    raise AssertionError
assert errors.getvalue().endswith("needs gradio: pip install gradio\\n"), errors.getvalue()
""",
        tmp_path,
    )
