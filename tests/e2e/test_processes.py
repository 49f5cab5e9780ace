"""One run on one and on two real processes (gloo), whole and spread over them."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.training_helpers import LAUNCHER, Runs, assert_close, assert_same_bits

# `accelerate launch --cpu` starts several processes through MPI only.
ACCELERATE = (
    *"-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1".split(),
    *"--mixed_precision no --dynamo_backend no".split(),
)
FSDP_WORKER = Path(__file__).parents[1] / "support" / "fsdp_worker.py"
# Dropout, classes, stratified timesteps and averages all have to be the same on any number of processes.
RICH = {
    "dropout": 0.2,
    "timestep_sampling": "stratified",
    "snr_gamma": 5,
    "ema_half_life_steps": "3 50",
    "validation_split": "test",
    "validation_steps": 5,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_unet_config: dict) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("processes"), tiny_unet_config)
    runs.train("one", **RICH)
    return runs


@pytest.fixture(scope="module")
def two(runs: Runs) -> subprocess.CompletedProcess:
    """The same run on two processes, by the launcher that people use."""
    return runs.train_apart("two", *ACCELERATE, **{**RICH, "train_batch_size": 4})


def held_out(runs: Runs, output_dir: str) -> list[dict]:
    return json.loads((runs.folder / output_dir / "validation.json").read_text())


def assert_close_to_one_process(runs: Runs, output_dir: str) -> None:
    assert_close(runs, "one", output_dir)
    for a, b in zip(held_out(runs, "one"), held_out(runs, output_dir), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_two_processes_under_accelerate_train_like_one_and_each_file_is_written_once(
    runs: Runs, two: subprocess.CompletedProcess
):
    assert_close_to_one_process(runs, "two")
    assert two.stdout.count("model: two") == 1
    assert not [path for path in (runs.folder / "two").rglob("*") if path.name.endswith((".tmp", ".old"))]
    assert {path.name for path in (runs.folder / "two").iterdir()} == {
        path.name for path in (runs.folder / "one").iterdir()
    }


def test_two_processes_resume_to_the_same_bits(runs: Runs, two: subprocess.CompletedProcess):
    settings = {**RICH, "train_batch_size": 4}
    # The end of a run is the end of a record as well.
    runs.train_apart("parts", *LAUNCHER, **{**settings, "max_train_steps": 5})
    runs.train_apart("parts", *LAUNCHER, **settings)
    assert_same_bits(runs, "two", "parts")
    assert held_out(runs, "two") == held_out(runs, "parts")


def test_accumulation_and_the_number_of_processes_may_change_in_the_middle(runs: Runs):
    # Every row of the batch is computed elsewhere after the change: micro steps become processes become one batch.
    split = {"train_batch_size": 2, "gradient_accumulation_steps": 2}
    runs.train_apart("changed", *LAUNCHER, **{**RICH, **split, "max_train_steps": 5})
    refused = runs.train("changed", code=2, **{**RICH, "train_batch_size": 4})
    assert "8 images a step (now 4)" in runs.last_line(refused)
    runs.train("changed", **RICH)
    assert_close_to_one_process(runs, "changed")


def test_accumulated_gradients_train_like_the_large_batch(runs: Runs):
    runs.train("accumulated", **{**RICH, "train_batch_size": 2, "gradient_accumulation_steps": 4})
    assert_close_to_one_process(runs, "accumulated")


def test_a_notice_to_stop_to_one_of_two_processes_stops_both_at_one_step(runs: Runs):
    settings = {"train_batch_size": 4, "max_train_steps": 4000, "logging_steps": 50, "checkpointing_steps": 50}
    process = runs.start("noticed", *LAUNCHER, **settings)
    runs.wait_for_checkpoint("noticed", process)
    # The second process, not the one that writes.
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    [second] = [pid for pid in children if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
    os.kill(int(second), signal.SIGTERM)
    stopped = runs.finish(process)
    assert stopped.returncode != 0
    [line] = [line for line in stopped.stderr.replace("\r", "\n").splitlines() if "stopped by SIGTERM" in line]
    step = int(re.search(r"at step ([\d,]+) of 4,000", line)[1].replace(",", ""))
    assert step % 10 == 0
    assert (runs.folder / "noticed" / "checkpoints" / f"step-{step:08d}" / "manifest.json").exists()
    runs.train("noticed", **{**settings, "train_batch_size": 8, "max_train_steps": step + 2})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_data_dir": "nowhere"}, "nowhere"),
        ({"model_config": "fourier.json"}, "fourier.json makes a network that cannot be trained on cpu"),
    ],
)
def test_a_mistake_is_one_line_on_two_processes_too(
    runs: Runs, tiny_unet_config: dict, changes: dict[str, str], words: str
):
    (runs.folder / "fourier.json").write_text(json.dumps({**tiny_unet_config, "time_embedding_type": "fourier"}))
    refused = runs.finish(runs.start("mistaken", *LAUNCHER, **changes))
    assert refused.returncode != 0
    assert not (runs.folder / "mistaken").exists()
    lines = [line for line in refused.stderr.splitlines() if "error: " in line and words in line]
    assert len(lines) == 1
    assert "Traceback (most recent call last)" not in refused.stderr.split("train.py: error")[0]


def test_one_process_of_several_is_refused_where_the_launcher_starts_no_more(runs: Runs):
    refused = runs.finish(runs.start("fewer", *"-m accelerate.commands.launch --num_processes 2".split()))
    assert refused.returncode != 0
    [line] = [line for line in refused.stderr.splitlines() if "train.py: error" in line]
    assert "has started only this one; give it --multi_gpu" in line
    assert not (runs.folder / "fewer").exists()


def test_gpus_that_are_asked_for_and_not_there_leave_two_processes_that_work_together(runs: Runs):
    command = runs.command("no-gpus", "-m", "accelerate.commands.launch", "--use_fsdp", "--num_processes", "2")
    run = runs.finish(runs.start_command([*command, *"--train_batch_size 4 --max_train_steps 2".split()]))
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stderr.count("FSDP spreads a network over GPUs only") == 1
    assert json.loads((runs.folder / "no-gpus" / "training.json").read_text())["global_batch_size"] == 8


def test_the_work_of_one_process_is_done_by_one(runs: Runs):
    flags = "--output_dir few --num_train_images 2 --num_test_images 0 --resolution 8".split()
    run = runs.finish(runs.start_command([sys.executable, *LAUNCHER, "-m", "ddpm_cars", "toy-cars", *flags]))
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout == "toy cars: few\n"
    assert run.stderr.count("the other processes that were launched have ended") == 1


def train_spread(runs: Runs, **settings: object) -> subprocess.CompletedProcess:
    """Train a network that is spread over two processes.

    FSDP on CPU processes is not what torch makes it for: about once in a hundred runs one of them dies inside torch's
    native code. Then, and only then, the command is repeated, as its user would do.
    """
    for _ in range(3):
        run = runs.finish(runs.start("spread", *LAUNCHER, script=FSDP_WORKER, **settings))
        if not re.search(r"exitcode\s*: -(11|6)\b", run.stderr):
            break
        print(run.stderr)
    assert run.returncode == 0, run.stderr
    return run


def test_a_network_spread_over_two_processes_trains_resumes_and_publishes_like_one(runs: Runs):
    settings = {**RICH, "train_batch_size": 4}
    part = train_spread(runs, **{**settings, "max_train_steps": 5})
    shares = re.findall(r"holds (\d+) of (\d+) weights", part.stdout)
    assert len(shares) == 2
    assert all(int(here) < 0.7 * int(everywhere) for here, everywhere in shares)
    whole = train_spread(runs, **settings)
    assert "continuing from spread/checkpoints/step-00000005" in whole.stdout
    assert_close_to_one_process(runs, "spread")
    # What it wrote is whole: one process goes on from it.
    runs.train("spread", **{**RICH, "max_train_steps": 14})
