"""scripts/sample.py on one and on two real processes (gloo): whole, killed, and where one fails."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from diffusers import UNet2DModel
from PIL import Image

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from tests.support.patience import PATIENCE_SECONDS
from tests.support.training_helpers import LAUNCHER, SCRIPTS, Runs

NUM_IMAGES = 60
ARGUMENTS = (
    *"--pretrained_model_name_or_path model --batch_size 4 --seed 7 --num_inference_steps 10".split(),
    *f"--num_images {NUM_IMAGES} --mixed_precision no".split(),
)
# The second process can write no files, but the lines and the connections of a process are none.
FAILING = """
import os, resource
import ddpm_cars.sampling.sample  # its imports write files of their own
from ddpm_cars.cli import commands as cli
# Importing it writes files too.
import ddpm_cars.sampling.sample
if os.environ["RANK"] == "1":
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
cli.sample()
"""


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, tiny_unet_config: dict, make_unet: Callable[..., UNet2DModel]
) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("sample"), tiny_unet_config, num_images=(1, 1))
    DDPMCarsPipeline(make_unet(), DDPMCarsScheduler(num_train_timesteps=20)).save_pretrained(runs.folder / "model")
    return runs


def start(
    runs: Runs, output_dir: str, *launcher: str, script: Path = SCRIPTS / "sample.py", more: Sequence[str] = ()
) -> subprocess.Popen:
    flags = [*ARGUMENTS, *more, "--output_dir", output_dir]
    return runs.start_command([sys.executable, *launcher, str(script), *flags])


def sample_here(runs: Runs, output_dir: str) -> None:
    """Sample in this process, which has one thread like the others."""
    runs.run(SCRIPTS / "sample.py", *ARGUMENTS, "--output_dir", output_dir)


def pixels(runs: Runs, output_dir: str) -> np.ndarray:
    paths = sorted((runs.folder / output_dir).glob("[0-9]*.png"))
    assert [path.name for path in paths] == [f"{i:05d}.png" for i in range(NUM_IMAGES)]
    return np.stack([np.asarray(Image.open(path)) for path in paths]).astype(int)


def written(runs: Runs, output_dir: str) -> dict[str, tuple[int, int]]:
    """Tell the images of a folder from others of the same names."""
    stats = {path.name: path.stat() for path in (runs.folder / output_dir).glob("[0-9]*.png")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def wait_for_pictures(runs: Runs, output_dir: str, process: subprocess.Popen) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while len(written(runs, output_dir)) < 5:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.002)


@pytest.fixture(scope="module")
def whole(runs: Runs) -> np.ndarray:
    """The images of one process without a break."""
    sample_here(runs, "whole")
    return pixels(runs, "whole")


def test_two_processes_go_on_where_one_was_killed_and_draw_what_one_does(runs: Runs, whole: np.ndarray):
    process = start(runs, "killed")
    wait_for_pictures(runs, "killed", process)
    process.kill()
    runs.finish(process)
    before = written(runs, "killed")
    assert len(before) < NUM_IMAGES
    run = runs.finish(start(runs, "killed", *LAUNCHER))
    assert run.returncode == 0, run.stderr[-3000:]
    np.testing.assert_array_equal(pixels(runs, "killed"), whole)
    assert before.items() <= written(runs, "killed").items()
    files = {path.name: path.read_bytes() for path in (runs.folder / "killed").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (runs.folder / "whole").iterdir()}
    assert run.stdout.splitlines() == [f"images: {NUM_IMAGES} in killed", "grid: killed/grid.png"]
    # Nobody complains about the end of the other.
    for words in ("Warning", "destroy_process_group", "Traceback"):
        assert words not in run.stderr


def test_what_one_of_two_processes_cannot_do_ends_both_with_one_line(
    runs: Runs, whole: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    script = runs.folder / "failing.py"
    script.write_text(FAILING)
    # They share what would be one batch.
    few = ("--num_images", "4", "--batch_size", "16")
    run = runs.finish(start(runs, "failed", *LAUNCHER, script=script, more=few))
    assert run.returncode != 0
    lines = [line for line in run.stderr.replace("\r", "\n").splitlines() if "error: " in line]
    assert lines == ["failing.py: error: failed/00002.png cannot be written or read: File too large"]
    # What the process draws that can write, and nothing of the other.
    before = written(runs, "failed")
    assert sorted(before) == ["00000.png", "00001.png"]
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    sample_here(runs, "failed")
    assert "accelerate launch uses one of 6 cores" in caplog.text
    assert np.abs(pixels(runs, "failed") - whole).max() <= 1
    assert before.items() <= written(runs, "failed").items()
