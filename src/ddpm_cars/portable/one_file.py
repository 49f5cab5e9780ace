"""The scheduler and the pipeline in one file: the `pipeline.py` that a saved model carries."""

import ast
from pathlib import Path

_PACKAGE = "ddpm_cars."
_JOINED = ("scheduling_ddpm_cars", "pipeline_ddpm_cars")
_HEADER = '''"""DDPMCarsScheduler and DDPMCarsPipeline in one file, joined from the modules of the package ddpm_cars.

It needs torch, numpy and diffusers. `DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder,
trust_remote_code=True)` loads the model beside it where the package is not installed.
"""
'''


def module_sources() -> dict[str, str]:
    """Return the sources of the modules that travel, by name, without the imports of one another.

    Each comes after those that it imports.
    """
    package, sources = Path(__file__).parents[1], dict[str, str]()

    def add(name: str) -> None:
        text = package.joinpath(*name.split(".")).with_suffix(".py").read_text(encoding="utf-8")
        lines = text.splitlines(keepends=True)
        for node in ast.parse(text).body:
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(_PACKAGE):
                imported = str(node.module).removeprefix(_PACKAGE)
                if imported not in sources:
                    add(imported)
                end = node.end_lineno or node.lineno
                # Emptied and not deleted, so that the lines that follow keep their places.
                lines[node.lineno - 1 : end] = [""] * (end - node.lineno + 1)
        sources[name] = "".join(lines)

    for name in _JOINED:
        if name not in sources:
            add(name)
    return sources


def one_file_source() -> str:
    """Return the source of the scheduler and of the pipeline in one module."""
    if "DDPMCarsPipeline" in globals():  # This is that module already.
        return Path(__file__).read_text(encoding="utf-8")
    return "\n\n".join((_HEADER, *module_sources().values()))
