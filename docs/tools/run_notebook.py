"""Run a notebook from top to bottom in an empty folder, and write what came out.

    python docs/tools/run_notebook.py docs/first_model.ipynb [OUTPUT]

Without OUTPUT the notebook itself is written anew. Progress bars and warnings on stderr are left out.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient


def run(path: Path, output: Path) -> None:
    """Run a notebook and write it with its outputs.

    Args:
        path: The notebook.
        output: Where the notebook with its outputs is written; may be the same file.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    with TemporaryDirectory(prefix="notebook-") as folder:
        NotebookClient(
            notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}
        ).execute()
    for cell in notebook.cells:
        # The time of a run and its progress bars differ each time, and one format of an image is enough.
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [given for given in cell.outputs if given.get("name") != "stderr"]
            for given in cell.outputs:
                given.get("data", {}).pop("image/jpeg", None)
    for name in ("kernelspec", "language_info"):
        notebook.metadata.pop(name, None)
    nbformat.write(notebook, output)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[-1]))
