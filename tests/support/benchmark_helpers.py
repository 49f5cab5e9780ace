"""What the tests of the benchmarks share."""

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks_main


def run_suite(suite: str, folder: Path, options: str) -> dict:
    """Run a suite once, in this process, and return what it writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", f"benchmarks {suite} --repeats 1 --output_dir {folder} {options}".split())
        benchmarks_main.main()
    return json.loads((folder / f"benchmark_{suite}.json").read_text())
