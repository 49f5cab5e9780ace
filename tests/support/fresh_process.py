"""Code in a process of its own, where warnings of other packages are no errors."""

import subprocess
import sys
from pathlib import Path


def run_alone(script: str, folder: Path) -> None:
    """Run Python code that finds the folder in sys.argv[1], and fail with what it prints if it fails."""
    run = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
