"""Signals, kills, locks and disks that fail, on real runs."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_SECONDS
from tests.support.training_helpers import SCRIPTS, Runs, assert_same_bits

# Long enough that a signal meets it at work.
LONG = {"max_train_steps": 4000, "logging_steps": 50, "checkpointing_steps": 50}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_unet_config: dict) -> Runs:
    return Runs(tmp_path_factory.mktemp("faults"), tiny_unet_config)


def test_killed_again_and_again_the_run_ends_as_if_left_alone():
    script = [sys.executable, "-m", "studies.fault_injection", "--kills", "2", "--steps", "120", "--seed", "5"]
    run = subprocess.run(script, cwd=SCRIPTS.parent, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1] == "2 kills, 0 damaged checkpoints met"
    assert run.stdout.count("| yes |") >= 6


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
def test_a_notice_to_stop_saves_and_the_same_command_continues(runs: Runs, signum: signal.Signals, code: int):
    name = signum.name
    process = runs.start(name, **LONG)
    runs.wait_for_checkpoint(name, process)
    process.send_signal(signum)
    stopped = runs.finish(process)
    assert stopped.returncode == code
    line, how = runs.last_line(stopped), "interrupted" if name == "SIGINT" else "stopped by SIGTERM"
    [newest] = [max((runs.folder / name / "checkpoints").glob("step-*"))]
    step = int(newest.name[5:])
    assert f"{how} at step {step:,} of 4,000 and saved in {name}/checkpoints; the same command" in line
    # A few steps more, beside a run that nobody has stopped.
    until = {**LONG, "max_train_steps": step + 20}
    continued = runs.train(name, **until)
    assert f"continuing from {name}/checkpoints/{newest.name}" in continued.stdout
    runs.train(f"{name}-alone", **until)
    assert_same_bits(runs, f"{name}-alone", name)


def test_a_second_run_on_the_same_folder_is_refused_and_harms_nothing(runs: Runs):
    first = runs.start("locked", **LONG)
    try:
        runs.wait_for_checkpoint("locked", first)
        second = runs.train("locked", code=2, overwrite_output_dir="true", **LONG)
        assert f"output_dir locked is in use by another run (process {first.pid} on" in runs.last_line(second)
        assert first.poll() is None
        assert list((runs.folder / "locked" / "checkpoints").glob("step-*"))
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
    # The lock of a killed run holds nobody up.
    dry = runs.train("locked", dry_run="true", **LONG)
    assert "begins       from locked/checkpoints/step-" in dry.stdout


# tensorboard's generated protobuf modules warn about the protobuf they meet.
@pytest.mark.filterwarnings("ignore")
def test_a_tracker_has_every_step_once_after_a_kill(runs: Runs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = {"logger": "tensorboard", "logging_steps": 1, "checkpointing_steps": 40}
    process = runs.start("tracked", **settings, max_train_steps=4000)
    runs.wait_for_checkpoint("tracked", process)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    newest = max((runs.folder / "tracked" / "checkpoints").glob("step-*"))
    last = int(newest.name[5:]) + 20
    again = runs.train("tracked", **settings, max_train_steps=last)
    assert f"continuing from tracked/checkpoints/{newest.name}" in again.stdout
    events = EventAccumulator(str(runs.folder / "tracked" / "logs" / "ddpm_cars"), size_guidance={"scalars": 0})
    scalars = events.Reload().Scalars("loss")
    assert [event.step for event in scalars] == list(range(1, last + 1))
    expected = [record["loss"] for record in runs.records("tracked")]
    assert [event.value for event in scalars] == pytest.approx(expected, rel=1e-6)


def limit_files(num_bytes: int) -> None:
    """Let the kernel refuse to write more than this into a file, as a full disk or a quota does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def test_a_disk_that_refuses_checkpoints_is_one_line_and_the_last_one_is_untouched(runs: Runs, tiny_unet_config: dict):
    wide = runs.folder / "wide.json"
    wide.write_text(json.dumps({**tiny_unet_config, "block_out_channels": [8, 16]}))
    runs.train("full", model_config=wide, max_train_steps=4)
    kept = runs.folder / "full" / "checkpoints" / "step-00000004"
    size = (kept / "optimizer.safetensors").stat().st_size
    before = {file: file.read_bytes() for file in kept.rglob("*") if file.is_file()}
    # Room for all that is published, and not for the optimiser, the largest file of a checkpoint.
    refused = runs.finish(
        runs.start("full", model_config=wide, max_train_steps=12, preexec_fn=lambda: limit_files(size - 1))
    )
    assert refused.returncode == 0, refused.stderr
    warnings = [line for line in refused.stderr.replace("\r", "\n").splitlines() if line.startswith("warning")]
    # The others say that the images and the timesteps are few.
    assert len(warnings) == 4
    for step, line in zip((8, 12), warnings[-2:], strict=True):
        assert f"the checkpoint of step {step} cannot be written (" in line
        assert "the last complete checkpoint is full/checkpoints/step-00000004" in line
    assert {file: file.read_bytes() for file in kept.rglob("*") if file.is_file()} == before
    assert os.listdir(runs.folder / "full" / "checkpoints") == ["step-00000004"]
    # With room again the same command goes on, to the end of a run that had room all the time.
    runs.train("full", model_config=wide, max_train_steps=12)
    runs.train("roomy", model_config=wide, max_train_steps=4)
    runs.train("roomy", model_config=wide, max_train_steps=12)
    assert_same_bits(runs, "roomy", "full")


def test_results_that_cannot_be_written_are_one_line_and_the_same_command_writes_them(runs: Runs):
    size = 20_000
    failed = runs.finish(runs.start("unpublished", max_train_steps=2, preexec_fn=lambda: limit_files(size)))
    assert failed.returncode == 1
    line = runs.last_line(failed)
    assert "the trained model cannot be written to unpublished" in line
    assert line.endswith("Make room or mend the folder, and repeat the same command")
    assert not (runs.folder / "unpublished" / "model_index.json").exists()
    runs.train("unpublished", max_train_steps=2)
    assert (runs.folder / "unpublished" / "model_index.json").exists()


def test_an_output_folder_that_disappears_is_made_again(runs: Runs):
    process = runs.start("gone", **{**LONG, "max_train_steps": 150})
    runs.wait_for_checkpoint("gone", process)
    shutil.rmtree(runs.folder / "gone")
    run = runs.finish(process)
    assert run.returncode == 0, run.stderr
    assert (runs.folder / "gone" / "model_index.json").exists()
    assert (runs.folder / "gone" / "checkpoints" / "step-00000150").is_dir()


@pytest.mark.parametrize("place", ["file", "below a file"])
def test_an_output_folder_that_cannot_be_is_one_line_before_any_work(runs: Runs, place: str):
    (runs.folder / "file").write_text("")
    output_dir = "file" if place == "file" else "file/below"
    refused = runs.train(output_dir, code=2)
    assert f"output_dir {output_dir}" in runs.last_line(refused)
    assert "decoding" not in refused.stderr


def test_a_run_that_diverges_says_so_in_one_line(runs: Runs):
    diverged = runs.train("diverged", code=1, learning_rate=1e30, max_grad_norm="null", adam_epsilon=1e-8)
    assert "error: diverged at step " in runs.last_line(diverged)
    assert "gradient norm" in runs.last_line(diverged)


# One thread of torch and a network of a few kilobytes need little; the batch is what does not fit.
OUT_OF_MEMORY = """
import resource, sys
import ddpm_cars.training.network as network
from pathlib import Path
import torch

def limited(unet, batch_size, accelerator, num_copies, fits=network.step_fits):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    used = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000, -1))
    try:
        return fits(unet, batch_size, accelerator, num_copies)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))

network.step_fits = limited
from ddpm_cars.cli.commands import train
train()
"""


def test_a_batch_that_does_not_fit_is_split_and_the_run_stays_the_same(runs: Runs, tmp_path: Path):
    script = tmp_path / "train.py"
    script.write_text(OUT_OF_MEMORY)
    settings = {"train_batch_size": 8192, "max_train_steps": 1, "checkpointing_steps": 1}
    tight = runs.train_apart("tight", script=script, auto_find_batch_size="true", **settings)
    assert "memory is short: 4096 images at a time, 2 times per step; the run stays the same" in tight.stdout
    runs.train("wide", **settings)
    expected, actual = runs.records("wide")[0], runs.records("tight")[0]
    assert actual["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert actual["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-3)
