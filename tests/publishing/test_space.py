"""The files of a Space: the page, the package and the model, which work where nothing else of the project is."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from diffusers import UNet2DModel

import ddpm_cars
from ddpm_cars.publishing.files import content_of, model_files
from ddpm_cars.publishing.space import space_files
from ddpm_cars.runs.saved_pipeline import open_model_folder
from tests.support.publish_helpers import write_run

PACKAGE = Path(ddpm_cars.__file__).parent
# Two are imported by other names than those that they are installed by.
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml"}
USE_THE_PAGE = """
import sys
from pathlib import Path

folder = Path(sys.argv[1])
sys.path.insert(0, str(folder))
from ddpm_cars import DDPMCarsPipeline
from ddpm_cars.demo import build_app
from ddpm_cars.demo.drawing import draw, noised
from ddpm_cars.demo.schedule import plots
from ddpm_cars.demo.requests import check_request, draw_options
from ddpm_cars.toy_cars import draw_car

pipeline = DDPMCarsPipeline.from_pretrained(folder / "model")
build_app(pipeline, "cars")
request = check_request(pipeline, draw_options(pipeline, 4), {"steps": 3, "num_images": 2})
*_, last = draw(pipeline, request)
assert len(last.images) == 2
noised(pipeline, draw_car(0, 8), 5, 0)
assert "<svg" in plots(pipeline, 5)
places = {name: module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "ddpm_cars"}
assert len(places) > 20
for name, place in places.items():
    assert Path(place).is_relative_to(folder / "ddpm_cars"), (name, place)
"""


@pytest.fixture(scope="module")
def space(unet: UNet2DModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a Space, in a folder."""
    model = model_files(open_model_folder(write_run(tmp_path_factory.mktemp("run") / "cars", unet)))
    folder = tmp_path_factory.mktemp("space")
    for name, data in space_files(model, "me/cars", "mit").items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content_of(data))
    return folder


def test_a_space_has_the_page_the_whole_package_and_the_model(space: Path):
    metadata = yaml.safe_load((space / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert {name: metadata[name] for name in ("sdk", "app_file", "license")} == {
        "sdk": "gradio",
        "app_file": "app.py",
        "license": "mit",
    }
    compile((space / "app.py").read_bytes(), "app.py", "exec")
    modules = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")}
    assert {Path("__init__.py"), Path("demo/app.py"), Path("portable/__init__.py")} <= modules
    assert {path.relative_to(space / "ddpm_cars") for path in (space / "ddpm_cars").rglob("*.py")} == modules
    assert (space / "model" / "model_index.json").exists()
    assert not (space / "model" / "README.md").exists()


def test_the_page_works_with_the_files_of_the_space_alone(space: Path):
    pytest.importorskip("gradio")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(
        [sys.executable, "-c", USE_THE_PAGE, str(space)],
        cwd=space,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports_behind(name: str, seen: set[str]) -> set[str]:
    """Return the top-level names that a module of the package imports, and all modules of the package behind it."""
    seen.add(name)
    path = PACKAGE.joinpath(*name.split("."))
    path = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
    found: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # What is for type checkers only is not imported.
    unread = [node for block in ast.walk(tree) if is_for_types(block) for node in ast.walk(block)]
    for node in (node for node in ast.walk(tree) if node not in unread):
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            imported = [str(node.module)]
        for module in imported:
            first, *parts = module.split(".")
            if first != "ddpm_cars":
                found.add(first)
                continue
            # The faces of the wings on the way to a module are imported with it.
            for behind in {"__init__", *(".".join(parts[:n]) for n in range(1, len(parts) + 1))} - seen:
                found |= imports_behind(behind, seen)
    return found - set(sys.stdlib_module_names)


def test_a_space_requires_what_its_page_imports(space: Path):
    needed = imports_behind("demo", set())
    assert {"torch", "accelerate", "PIL"} <= needed
    required = set((space / "requirements.txt").read_text().split())
    # The Hub brings gradio, in the version that the README names.
    assert {DISTRIBUTIONS.get(name, name) for name in needed} - {"gradio"} <= required
