"""The notebook runs from top to bottom in an empty folder, and what stands in it is what it gives."""

import base64
import itertools
import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "first_model.ipynb"
OF_THE_MACHINE = ("network ", "chosen ", " " * 13, "memory ", "time ")
"""How lines of the plan begin that another machine, or another hour on this one, words otherwise."""


def results(notebook: Path) -> list[list]:
    """Return what each cell of code printed, and the images that it showed."""
    found = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            outputs = cell["outputs"]
            text = "".join("".join(output["text"]) for output in outputs if output["output_type"] == "stream")
            printed = [line for line in text.splitlines() if not line.startswith(OF_THE_MACHINE)]
            pngs = ["".join(output["data"]["image/png"]) for output in outputs if "data" in output]
            found.append(printed + [Image.open(BytesIO(base64.b64decode(png))).convert("RGB") for png in pngs])
    return found


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> list[list]:
    """What the notebook gives now."""
    output = tmp_path_factory.mktemp("notebook") / "ran.ipynb"
    command = [sys.executable, "docs/tools/run_notebook.py", str(NOTEBOOK), str(output)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-4000:]
    return results(output)


def test_the_notebook_holds_what_it_gives(fresh: list[list]):
    cure = "python docs/tools/run_notebook.py docs/first_model.ipynb writes it anew"
    for held, given in zip(results(NOTEBOOK), fresh, strict=True):
        assert [type(part) for part in held] == [type(part) for part in given], cure
        for a, b in zip(held, given, strict=True):
            assert a == b if isinstance(a, str) else a.size == b.size, cure


def test_it_ends_with_pictures_of_cars(fresh: list[list]):
    (drawn,) = fresh[-1]
    images = np.split(np.asarray(drawn, dtype=float), 4, axis=1)
    # Neighbouring pixels of an enlarged image are alike even in noise, so those of the image itself are compared.
    small = [image[2::5, 2::5] for image in images]
    assert all(np.abs(np.diff(image, axis=0)).mean() < 20 < image.std() + 10 for image in small)
    assert all(np.abs(a - b).mean() > 5 for a, b in itertools.pairwise(small))
