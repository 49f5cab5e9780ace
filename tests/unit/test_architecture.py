"""The rules of the code's layout, read off the sources themselves."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "ddpm_cars"
RANKS = {
    "scheduling_ddpm_cars": 0,
    "pipeline_ddpm_cars": 0,
    "config": 1,
    "command_configs": 1,
    "stock_flags": 1,
    "images": 1,
    "picture_cache": 1,
    "picture_sources": 1,
    "shards": 1,
    "streaming": 1,
    "losses": 1,
    "dropout": 1,
    "validation": 1,
    "batches": 1,
    "finite": 1,
    "keeping": 1,
    "memory": 1,
    "results": 1,
    "setup": 1,
    "step_graph": 1,
    "guard": 1,
    "plan": 1,
    "data": 1,
    "toy_cars": 1,
    "toy_car_shapes": 1,
    "model": 1,
    "compiled_layers": 1,
    "plots": 1,
    "checkpoints": 1,
    "sampling": 1,
    "train_state": 1,
    "likelihood": 1,
    "least_cost": 1,
    "features": 1,
    "frechet": 1,
    "neighbours": 1,
    "quality": 1,
    "image_statistics": 1,
    "evaluation_plots": 1,
    "report_pieces": 1,
    "report": 1,
    "report_comparison": 1,
    "report_card": 1,
    "evaluation_pictures": 1,
    "held_out_likelihood": 1,
    "metrics_file": 1,
    "references": 1,
    "team": 1,
    "calibration": 1,
    "hardware": 1,
    "run_facts": 1,
    "model_folder": 1,
    "card": 1,
    "space": 1,
    "demo_requests": 1,
    "demo_parts": 1,
    "demo_plots": 1,
    "demo_markup": 1,
    "sample_command": 2,
    "calibrate_command": 2,
    "training": 2,
    "evaluation": 2,
    "hub": 2,
    "demo": 2,
    "cli": 3,
}
RANK_OF_PEERS = 1
STANDALONE = [name for name, rank in RANKS.items() if rank == 0]
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports_in(tree: ast.Module) -> Iterator[str]:
    """Yield the dotted name of everything imported at any depth, relative imports resolved against ddpm_cars."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                module = f"ddpm_cars.{module}".rstrip(".")
            yield from (f"{module}.{alias.name}" for alias in node.names)


def top_level_imports(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports_in(parse(path))}


def package_imports(path: Path) -> set[str]:
    """Return the modules of the package that a file imports; a name taken from ddpm_cars itself is `__init__`."""
    imported = set()
    for name in imports_in(parse(path)):
        head, *rest = name.split(".")
        if head == "ddpm_cars":
            is_module = rest and (rest[0] in RANKS or (PACKAGE / f"{rest[0]}.py").exists())
            imported.add(rest[0] if is_module else "__init__")
    return imported


def rank_of(name: str) -> int:
    assert name in RANKS, f"src/ddpm_cars/{name}.py has no rank: add it to RANKS, which says what it may import."
    return RANKS[name]


def by_name(paths: list[Path]) -> list:
    return [pytest.param(path, id=path.stem) for path in paths]


def ranked_modules() -> list:
    return by_name([path for path in MODULES if path.stem != "__init__"])


def test_the_package_is_flat():
    assert (PACKAGE / "__init__.py").exists()
    nested = [str(path.relative_to(PACKAGE)) for path in MODULES if path.parent != PACKAGE]
    assert not nested, f"src/ddpm_cars has no subpackages, but there is {nested}."


@pytest.mark.parametrize("path", ranked_modules())
def test_every_module_has_a_rank(path: Path):
    rank_of(path.stem)


@pytest.mark.parametrize("path", ranked_modules())
def test_modules_import_only_what_ranks_below_them(path: Path):
    rank = rank_of(path.stem)
    for imported in package_imports(path):
        if imported == "__init__":
            # The package itself brings in low ranks only.
            assert rank > 0, f"{path.name} stands alone, but imports from ddpm_cars."
            continue
        other = rank_of(imported)
        allowed = other < rank or other == rank == RANK_OF_PEERS
        assert allowed, f"{path.name} (rank {rank}) imports {imported} (rank {other})."


def test_imports_have_no_cycles():
    graph = {path.stem: package_imports(path) - {"__init__"} for path in MODULES}
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        assert name not in trail, f"Import cycle: {' -> '.join([*trail[trail.index(name) :], name])}."
        if name in done:
            return
        for imported in sorted(graph.get(name, ())):
            visit(imported, [*trail, name])
        done.add(name)

    for name in graph:
        visit(name, [])
    assert set(graph) <= done


def test_the_package_imports_its_public_names_only():
    assert package_imports(PACKAGE / "__init__.py") == {*STANDALONE, "calibration"}


def test_config_imports_nothing_of_the_package():
    path = PACKAGE / "config.py"
    if path.exists():
        assert not package_imports(path)


@pytest.mark.parametrize("name", STANDALONE)
def test_standalone_files_need_torch_numpy_and_diffusers_only(name: str):
    foreign = (
        top_level_imports(PACKAGE / f"{name}.py") - set(sys.stdlib_module_names) - {"torch", "numpy", "diffusers"}
    )
    assert not foreign


@pytest.mark.parametrize("path", by_name(MODULES))
def test_only_the_command_line_imports_jsonargparse(path: Path):
    assert "jsonargparse" not in top_level_imports(path) or path.stem == "cli"


@pytest.mark.parametrize("path", by_name(MODULES + SCRIPTS))
def test_nothing_is_pickled(path: Path):
    tree = parse(path)
    pickling = {"pickle", "cPickle", "_pickle", "torch.save", "torch.load"}
    for name in imports_in(tree):
        assert name not in pickling, f"{path.name} imports {name}."
        assert name.split(".")[0] not in pickling, f"{path.name} imports {name}."
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in pickling, f"{path.name}, line {node.lineno}: {ast.unparse(node)}."


def undocumented(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield f"{prefix}{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, f"{prefix}{node.name}.")


@pytest.mark.parametrize("path", by_name(MODULES))
def test_everything_public_has_a_docstring(path: Path):
    assert not list(undocumented(parse(path).body))


def modules_after(statement: str) -> set[str]:
    script = f"import sys; {statement}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.fixture(scope="module")
def modules_after_import() -> set[str]:
    return modules_after("import ddpm_cars")


@pytest.mark.parametrize("name", ["datasets", "matplotlib", "jsonargparse"])
def test_importing_the_package_is_light(modules_after_import: set[str], name: str):
    assert name not in modules_after_import


def test_importing_the_package_adds_no_accelerate_to_what_diffusers_imports(modules_after_import: set[str]):
    # Where accelerate is installed, diffusers' own models import it.
    of_diffusers = modules_after("import diffusers.models.unets.unet_2d, diffusers.pipelines.pipeline_utils")
    assert {name for name in modules_after_import - of_diffusers if name.split(".")[0] == "accelerate"} == set()


@pytest.mark.parametrize("name", STANDALONE)
def test_importing_the_package_registers_what_diffusers_looks_up(modules_after_import: set[str], name: str):
    assert f"ddpm_cars.{name}" in modules_after_import
