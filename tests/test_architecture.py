"""The rules of the code's layout, read off the sources themselves."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ddpm_cars.runs.run_folder import RunFolder

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "ddpm_cars"
STANDALONE = ("scheduling_ddpm_cars", "pipeline_ddpm_cars")
TRAVELS = (*STANDALONE, "portable")
BASE = ("errors", "runtime", *STANDALONE)
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "portable": (),
    "scheduling_ddpm_cars": ("portable",),
    "pipeline_ddpm_cars": ("portable",),
    "errors": (),
    "runtime": ("errors",),
    "config": ("errors",),
    "diffusion": BASE,
    "data": ("config", "diffusion", "errors", "runtime"),
    "toy_cars": ("runtime",),
    "networks": ("diffusion", *BASE),
    "figures": ("runtime",),
    "runs": ("config", "data", "networks", *BASE),
    "metrics": ("diffusion", *BASE),
    "reports": ("figures", "metrics", "runs", "runtime"),
    "sampling": ("config", "data", "diffusion", "figures", "runs", *BASE),
    "training": ("config", "data", "diffusion", "figures", "networks", "runs", "sampling", *BASE),
    "evaluation": ("config", "data", "diffusion", "metrics", "reports", "runs", "sampling", *BASE),
    "publishing": ("config", "metrics", "reports", "runs", *BASE),
    "demo": ("data", "diffusion", "figures", "runs", "sampling", "toy_cars", *BASE),
    "__init__": ("config", "diffusion", "evaluation", "sampling", "training", *STANDALONE),
}
"""What each wing imports of the others; the command line and the face of the package import what they need."""
MODULES = sorted(PACKAGE.rglob("*.py"))
PROGRAMS = sorted(path for name in ("scripts", "benchmarks", "studies") for path in (ROOT / name).rglob("*.py"))


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


def wing_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def wings_imported_by(path: Path) -> set[str]:
    """Return the wings that a file imports from; a name taken from ddpm_cars itself is `__init__`."""
    dotted = (name.split(".") for name in imports_in(parse(path)))
    found = {parts[1] if len(parts) > 1 else "__init__" for parts in dotted if parts[0] == "ddpm_cars"}
    known = {wing_of(module) for module in MODULES}
    return {wing if wing in known else "__init__" for wing in found} - {wing_of(path)}


def by_name(paths: list[Path]) -> list:
    return [pytest.param(path, id=path.relative_to(ROOT).as_posix()) for path in paths]


@pytest.mark.parametrize("path", by_name(MODULES))
def test_a_wing_imports_only_wings_of_the_table(path: Path):
    wing = wing_of(path)
    if wing in ("cli", "__main__"):
        return
    above = wings_imported_by(path) - {*MAY_IMPORT[wing]}
    # Importing the package brings in low wings only.
    assert not above - {"__init__"}, f"{path} imports {above}; MAY_IMPORT says what {wing} may."
    assert not ("__init__" in above and wing in TRAVELS), f"{path} stands alone, but imports from ddpm_cars."


def test_the_table_has_no_circle():
    done: set[str] = set()

    def visit(wing: str, trail: tuple[str, ...]) -> None:
        assert wing not in trail, f"The table goes round in a circle: {' -> '.join((*trail, wing))}."
        if wing not in done:
            for other in MAY_IMPORT[wing]:
                visit(other, (*trail, wing))
            done.add(wing)

    for wing in MAY_IMPORT:
        visit(wing, ())


def modules_imported_by(path: Path) -> set[Path]:
    found: set[Path] = set()
    for name in imports_in(parse(path)):
        parts = name.split(".")
        if parts[0] == "ddpm_cars":
            places = (PACKAGE.joinpath(*parts[1:n]).with_suffix(".py") for n in (len(parts), len(parts) - 1) if n > 1)
            found.update(place for place in places if place.exists())
    return found


def test_modules_have_no_circle():
    graph = {path: modules_imported_by(path) for path in MODULES}
    done: set[Path] = set()

    def visit(path: Path, trail: tuple[Path, ...]) -> None:
        assert path not in trail, f"Import cycle: {' -> '.join(p.stem for p in (*trail, path))}."
        if path not in done:
            for imported in sorted(graph[path]):
                visit(imported, (*trail, path))
            done.add(path)

    for path in graph:
        visit(path, ())


@pytest.mark.parametrize("path", by_name([path for path in MODULES if path.name == "__init__.py"]))
def test_the_face_of_a_wing_is_a_docstring_and_public_names(path: Path):
    docstring, *rest = parse(path).body
    assert isinstance(docstring, ast.Expr)
    if path.parent != PACKAGE:
        assert all(isinstance(node, ast.ImportFrom | ast.Assign) for node in rest)


@pytest.mark.parametrize("path", by_name(sorted((ROOT / "tests").rglob("test_*.py"))))
def test_tests_mirror_the_wings(path: Path):
    folder = path.parent.name
    modules = [module.stem for module in MODULES if wing_of(module) == folder]
    modules += [program.stem for program in PROGRAMS if program.parent.name == folder]
    if folder == "portable":
        modules += STANDALONE
    if modules:
        name = path.stem.removeprefix("test_")
        assert any(name == module or name.startswith(f"{module}_") for module in modules), f"{path.name}: of what?"


PRIVATE_OF_OTHERS = {
    "_asdict": "a method of named tuples, which keep names without underscores for fields",
    "_exit": "os documents no other name for the end of a process that no library can hold up",
    "_fingerprint": "the documentation of datasets names it as what changes with the data",
    "_foreach_sub": "torch has no other name for its operations on lists of tensors",
    "_foreach_sub_": "torch has no other name for its operations on lists of tensors",
    "_get_variance": "the stock schedulers of diffusers have no other name for the variance of a step",
    "_hf_hook": "accelerate has no other name for the hooks of a network",
    "_version": "the counter of changes in place that the documentation of torch describes",
}
"""The names with an underscore that a module may ask another object for, and why."""


def private_names_of_others(path: Path) -> Iterator[tuple[str, str]]:
    """Yield every private name of another object or module that a file uses, with the code that does."""
    for node in ast.walk(parse(path)):
        found: list[tuple[object, str]] = []
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls", "super()"):
            found = [(node.attr, ast.unparse(node))]
        elif isinstance(node, ast.ImportFrom):
            found = [(alias.name, f"from {node.module} import {alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            found = [(name.value, ast.unparse(node)) for name in node.args[1:2] if isinstance(name, ast.Constant)]
        for name, code in found:
            if str(name).startswith("_") and not str(name).endswith("__"):
                yield str(name), f"line {getattr(node, 'lineno', None)}: {code}"


@pytest.mark.parametrize("path", by_name(MODULES + PROGRAMS))
def test_nobody_touches_private_names_of_others(path: Path):
    assert not [code for name, code in private_names_of_others(path) if name not in PRIVATE_OF_OTHERS]


def test_the_private_names_that_are_allowed_are_needed():
    used = {name for path in MODULES + PROGRAMS for name, _ in private_names_of_others(path)}
    assert used == PRIVATE_OF_OTHERS.keys()


def strings_in(path: Path) -> set[str]:
    """Return the strings of a module, except its docstrings."""
    nodes = list(ast.walk(parse(path)))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    constants = (node for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings)
    return {node.value for node in constants if isinstance(node.value, str)}


def test_the_name_of_a_file_is_spelled_in_one_module():
    modules: dict[str, list[str]] = {}
    for path in MODULES:
        for text in strings_in(path):
            if re.fullmatch(r"[\w./-]*[\w]\.(csv|html|json|lock|md|npy|png|py|safetensors|yaml)", text):
                modules.setdefault(text, []).append(path.relative_to(PACKAGE).as_posix())
    assert {"config.yaml", "metrics.json", "sampling.json"} < modules.keys()
    assert {text: where for text, where in modules.items() if len(where) > 1} == {}


@pytest.mark.parametrize("path", by_name(MODULES))
def test_run_folder_alone_names_the_folders_of_a_run(path: Path):
    folder = RunFolder("run")
    names = {place.name for place in vars(folder).values() if isinstance(place, Path)} | {folder.evaluation.path.name}
    joined = (node.right for node in ast.walk(parse(path)) if isinstance(node, ast.BinOp))
    spelled = {node.value for node in joined if isinstance(node, ast.Constant)} & names
    assert not spelled or path.name == "run_folder.py"


@pytest.mark.parametrize("path", by_name([path for path in MODULES if wing_of(path) in TRAVELS]))
def test_what_travels_with_a_model_needs_torch_numpy_and_diffusers_only(path: Path):
    known = {*sys.stdlib_module_names, "torch", "numpy", "diffusers", "ddpm_cars"}
    assert not top_level_imports(path) - known


@pytest.mark.parametrize("path", by_name(MODULES + PROGRAMS))
def test_nothing_is_pickled(path: Path):
    tree = parse(path)
    pickling = {"pickle", "cPickle", "_pickle", "torch.save", "torch.load"}
    for name in imports_in(tree):
        assert name not in pickling, f"{path.name} imports {name}."
        assert name.split(".")[0] not in pickling, f"{path.name} imports {name}."
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in pickling, f"{path.name}, line {node.lineno}: {ast.unparse(node)}."


OF_LIBRARIES = {"_asdict", "_exit", "_replace", "_version", "_fingerprint", "_foreach_sub", "_foreach_sub_"}
"""Names with an underscore that libraries give to those who use them."""


@pytest.mark.parametrize("path", by_name(MODULES))
def test_private_names_stay_with_their_owners(path: Path):
    tree = parse(path)
    for name in imports_in(tree):
        last = name.split(".")[-1]
        assert not (name.startswith("ddpm_cars.") and last.startswith("_") and not last.endswith("__")), name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
            owner = ast.unparse(node.value)
            known = owner in ("self", "cls") or node.attr in OF_LIBRARIES
            assert known, f"{path.name}, line {node.lineno}: {owner}.{node.attr} belongs to another object."


@pytest.mark.parametrize("path", by_name([path for path in MODULES if path != PACKAGE / "diffusion" / "seeds.py"]))
def test_randomness_is_derived_in_one_module(path: Path):
    # The painter of toy cars draws a car from its number with a generator of its own.
    if wing_of(path) == "toy_cars":
        return
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).split(".")[-1]
            assert name not in {"Generator", "manual_seed", "default_rng", "SeedSequence", "PCG64", "RandomState"}, (
                f"{path.name}, line {node.lineno}: take {name} from ddpm_cars.diffusion.seeds."
            )


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


@pytest.mark.parametrize("name", ["torch", "diffusers", "datasets", "matplotlib", "yaml"])
def test_importing_the_package_is_light(modules_after_import: set[str], name: str):
    assert name not in modules_after_import


def test_the_pipeline_adds_no_accelerate_to_what_diffusers_imports():
    after = modules_after("from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler")
    # Where accelerate is installed, diffusers' own models import it.
    of_diffusers = modules_after("import diffusers.models.unets.unet_2d, diffusers.pipelines.pipeline_utils")
    assert {name for name in after - of_diffusers if name.split(".")[0] == "accelerate"} == set()


@pytest.mark.parametrize("name", STANDALONE)
def test_importing_the_package_registers_what_diffusers_looks_up(modules_after_import: set[str], name: str):
    assert f"ddpm_cars.{name}" in modules_after_import
