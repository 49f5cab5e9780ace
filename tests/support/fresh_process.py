"""Code in processes of its own, where warnings of other packages are no errors."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def run_alone(script: str, folder: Path) -> None:
    """Run Python code that finds the folder in sys.argv[1], and fail with what it prints if it fails."""
    run = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def run_in_two_processes(script: str, folder: Path) -> str:
    """Run Python code like `run_alone` in two processes that know each other, and return what both print."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(folder)],
            env={**os.environ, **address, "RANK": rank, "LOCAL_RANK": rank, "ACCELERATE_USE_CPU": "true"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    outputs = [run.communicate() for run in runs]
    for run, (_, error) in zip(runs, outputs, strict=True):
        assert run.returncode == 0, error
    return "".join(output for output, _ in outputs)
