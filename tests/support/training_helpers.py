"""Real training runs, small enough to be many, in this process or in processes of their own."""

import io
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

from ddpm_cars.runs.checkpoints import load_checkpoint
from ddpm_cars.toy_cars.dataset import write_toy_cars
from tests.support.patience import PATIENCE_SECONDS
from tests.support.trainer_helpers import forget_accelerate

SCRIPTS = Path(__file__).parents[2] / "scripts"
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
SETTINGS: dict[str, Any] = {
    "train_data_dir": "cars",
    "resolution": 8,
    "model_config": "unet.json",
    "num_train_timesteps": 20,
    "train_batch_size": 8,
    "max_train_steps": 12,
    "learning_rate": 0.01,
    "lr_scheduler": "constant",
    "mixed_precision": "no",
    "ema_half_life_steps": 7000,
    # Keeps Adam from enlarging the rounding of sums that are taken in another order.
    "adam_epsilon": 0.001,
    "logging_steps": 5,
    "checkpointing_steps": 4,
    "save_images_steps": "null",
    "eval_batch_size": 1,
    "num_inference_steps": 2,
}


class Runs:
    """Training runs in one folder, offline and on one thread each.

    Args:
        folder: Where they run; it gets toy cars and a network.
        unet_config: The network.
        num_images: Toy cars in train/ and in test/.
    """

    def __init__(self, folder: Path, unet_config: dict, num_images: tuple[int, int] = (24, 8)):
        self.folder = folder
        write_toy_cars(folder / "cars", *num_images, 8)
        (folder / "unet.json").write_text(json.dumps(unet_config))
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("ACCELERATE_")}
        self.environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
        # A process that dies of a signal says where.
        self.environment["PYTHONFAULTHANDLER"] = "1"

    def command(
        self, output_dir: str, *launcher: str, script: Path | str = SCRIPTS / "train.py", **changes: object
    ) -> list:
        """Return the command line of a run, of a script or "-m MODULE COMMAND"; a setting of None is not given."""
        settings = {k: v for k, v in {**SETTINGS, "output_dir": output_dir, **changes}.items() if v is not None}
        pairs = [text for name, value in settings.items() for text in (f"--{name}", *str(value).split())]
        program = [str(script)] if isinstance(script, Path) else script.split()
        return [sys.executable, *launcher, *program, *pairs]

    def start(self, *arguments: Any, preexec_fn: Any = None, **changes: object) -> subprocess.Popen:
        """Start a training run in a process group of its own."""
        return self.start_command(self.command(*arguments, **changes), preexec_fn)

    def start_command(self, command: list, preexec_fn: Any = None) -> subprocess.Popen:
        """Start any command in a process group of its own."""
        # Two processes on one GPU would be none that people start.
        launched = command[1] == "-m"
        environment = self.environment | ({"CUDA_VISIBLE_DEVICES": ""} if launched else {})
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=preexec_fn,
        )

    def finish(self, process: subprocess.Popen) -> subprocess.CompletedProcess:
        """Wait for the end of a run."""
        try:
            out, err = process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def run(self, script: Path, *arguments: object, code: int = 0) -> subprocess.CompletedProcess:
        """Run a script in this process, which spares it the imports, to an end that has to be of this exit code."""
        forget_accelerate()
        argv, out, err = [str(script), *map(str, arguments)], io.StringIO(), io.StringIO()
        returncode: Any = 0
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(self.folder)
            patch.setattr("sys.argv", argv)
            patch.setattr("datasets.config.HF_DATASETS_CACHE", self.folder / "cache")
            try:
                runpy.run_path(argv[0], run_name="__main__")
            except SystemExit as stop:
                returncode = stop.code or 0
        assert returncode == code, err.getvalue()[-3000:]
        return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())

    def run_code(self, code: str, *arguments: object) -> None:
        """Run Python code in a fresh process, and fail with what it prints if it fails."""
        command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
        run = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )
        assert run.returncode == 0, run.stderr

    def train(self, output_dir: str, code: int = 0, **changes: object) -> subprocess.CompletedProcess:
        """Train in this process, to an end that has to be of this exit code."""
        _, script, *arguments = self.command(output_dir, **changes)
        return self.run(Path(script), *arguments, code=code)

    def train_apart(self, *arguments: Any, code: int = 0, **changes: object) -> subprocess.CompletedProcess:
        """Train in one or more processes, to an end that has to be of this exit code."""
        run = self.finish(self.start(*arguments, **changes))
        assert run.returncode == code, run.stderr[-3000:]
        return run

    def wait_for_checkpoint(self, output_dir: str, process: subprocess.Popen) -> None:
        """Wait until a run has written its first checkpoint."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not list((self.folder / output_dir / "checkpoints").glob("step-*")):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)

    def tensors(self, output_dir: str) -> dict[str, torch.Tensor]:
        """Return all tensors of the newest checkpoint of a run."""
        groups, _ = load_checkpoint(max((self.folder / output_dir / "checkpoints").glob("step-*")))
        assert groups.keys() > {"optimizer", "unet"}
        return {f"{group}/{name}": tensor for group, named in groups.items() for name, tensor in named.items()}

    def records(self, output_dir: str) -> list[dict[str, float]]:
        """Return the log of a run without what depends on the clock."""
        history = json.loads((self.folder / output_dir / "loss.json").read_text())
        return [{k: v for k, v in record.items() if k != "images_per_second"} for record in history]

    def last_line(self, run: subprocess.CompletedProcess) -> str:
        """Return the last line of a run's stderr, in which there is no traceback."""
        assert "Traceback" not in run.stderr
        return run.stderr.replace("\r", "\n").strip().splitlines()[-1]


def assert_same_bits(runs: Runs, one: str, other: str) -> None:
    """Compare weights, averages, optimiser state and losses of two runs."""
    expected, actual = runs.tensors(one), runs.tensors(other)
    assert expected.keys() == actual.keys()
    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []
    assert runs.records(one) == runs.records(other)


def assert_close(runs: Runs, one: str, other: str) -> None:
    """Compare two runs that differ in the order of sums."""
    expected, actual = runs.tensors(one), runs.tensors(other)
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    for a, b in zip(runs.records(one), runs.records(other), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
