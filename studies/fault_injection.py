"""Kill a training run again and again, continue it by the same command, and compare its end with a run left alone.

    python -m studies.fault_injection --kills 20

Half of the kills (SIGKILL) come while a checkpoint is being written, a quarter at a random moment of training and a
quarter while the run starts or soon after. Prints a table of what was hit and of where the run went on, and exits with
1 unless the weights, averages, optimiser state and losses at the end are those of the undisturbed run to the bit.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpm_cars.runs.run_folder import RunFolder
from ddpm_cars.toy_cars.dataset import write_toy_cars

UNET = {
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "dropout": 0.1,
}


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; None is that of the process."""
    parser = argparse.ArgumentParser(
        "python -m studies.fault_injection",
        description="Kill a training run again and again, and compare its end with that of a run left alone.",
    )
    parser.add_argument("--kills", type=int, default=20, help="how often the run is killed")
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps of the run")
    parser.add_argument("--checkpointing_steps", type=int, default=5, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="seed that decides the moments of the kills")
    parser.add_argument("--output_dir", type=Path, help="where the runs are kept; default: a temporary folder")
    return parser.parse_args(argv)


def command(folder: Path, name: str, arguments: argparse.Namespace) -> list[str]:
    """Return the command line of a run, the same for its first part and all later ones."""
    settings: dict[str, Any] = {
        "train_data_dir": folder / "cars",
        "cache_dir": folder / "cache",
        "output_dir": folder / name,
        "model_config": folder / "unet.json",
        "resolution": 16,
        "num_train_timesteps": 50,
        "train_batch_size": 4,
        "max_train_steps": arguments.steps,
        "lr_warmup_steps": 20,
        "learning_rate": 0.001,
        "logging_steps": 7,
        "checkpointing_steps": arguments.checkpointing_steps,
        "validation_split": "test",
        "validation_steps": 50,
        "save_images_steps": "null",
        "eval_batch_size": 1,
        "num_inference_steps": 2,
    }
    pairs = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    return [sys.executable, "-m", "ddpm_cars", "train", *pairs]


def start(folder: Path, name: str, arguments: argparse.Namespace) -> subprocess.Popen:
    """Start a part of a run; what it prints goes to a file."""
    log = (folder / f"{name}.log").open("a")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command(folder, name, arguments), stdout=log, stderr=log, env=environment)


def wait_for_save(checkpoints: Path, process: subprocess.Popen, number: int) -> bool:
    """Wait until the `number`-th checkpoint is half written, and say whether the process lived to see that."""
    seen: set[str] = set()
    cleaned = False
    while process.poll() is None:
        names = os.listdir(checkpoints) if checkpoints.is_dir() else []
        half = {name for name in names if name.endswith(".tmp")}
        # What the kill before has left is deleted when the run starts.
        cleaned = cleaned or not half
        if cleaned:
            seen |= half
        if len(seen) >= number:
            return True
        time.sleep(0.0005)
    return False


def newest_step(checkpoints: Path) -> int:
    """Return the step of the newest checkpoint."""
    steps = [int(p.name[5:]) for p in checkpoints.glob("step-*")] if checkpoints.is_dir() else []
    return max(steps, default=0)


def wait_for_step(checkpoints: Path, process: subprocess.Popen, step: int) -> None:
    """Wait until the run has a checkpoint of this step, or has ended."""
    while process.poll() is None and newest_step(checkpoints) < step:
        time.sleep(0.001)


def kill_once(
    folder: Path, arguments: argparse.Namespace, rng: random.Random, number: int, start_up_seconds: float
) -> str | None:
    """Continue the run, kill it, and return a row of the table; None if it ended before that."""
    checkpoints = RunFolder(folder / "killed").checkpoints
    before = newest_step(checkpoints)
    # In shares of the run, so that a machine of any speed is caught at work; the last fifth is left over for that.
    step = int(0.8 * arguments.steps * rng.uniform(number, number + 0.8) / arguments.kills)
    kind = rng.choice(["saving", "saving", "training", "starting"])
    process = start(folder, "killed", arguments)
    if kind == "starting":
        time.sleep(start_up_seconds * rng.uniform(0.2, 1.1))
    else:
        wait_for_step(checkpoints, process, step)
    if kind == "saving" and not wait_for_save(checkpoints, process, rng.randint(1, 3)):
        return None
    if kind == "training":
        time.sleep(rng.uniform(0, 0.05))
    if process.poll() is not None:
        return None
    process.kill()
    process.wait()
    half = [p.name for p in checkpoints.glob(".step-*")] if checkpoints.is_dir() else []
    moment = f"half written: {', '.join(half)}" if half else "between saves"
    return f"| {before} | {newest_step(checkpoints)} | {moment} |"


def fingerprints(run: Path) -> dict[str, str]:
    """Return hashes of all that must be equal: the tensors of the last checkpoint, the published model, the losses."""
    named = RunFolder(run)
    last = max(named.checkpoints.glob("step-*"))
    files = [*sorted(last.rglob("*.safetensors")), *sorted(named.unet.glob("*.safetensors"))]
    found = {file.relative_to(named.path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    history = json.loads(named.loss.read_text())
    for record in history:
        del record["images_per_second"]
    found["losses"] = hashlib.sha256(json.dumps(history).encode()).hexdigest()
    found["held-out losses"] = hashlib.sha256(named.validation.read_bytes()).hexdigest()
    return found


def main() -> None:
    """Run the experiment."""
    arguments = read_arguments()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.output_dir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        write_toy_cars(folder / "cars", 40, 8, 16)
        (folder / "unet.json").write_text(json.dumps(UNET))
        began = time.perf_counter()
        alone = start(folder, "alone", arguments)
        while newest_step(RunFolder(folder / "alone").checkpoints) == 0 and alone.poll() is None:
            time.sleep(0.01)
        start_up_seconds = time.perf_counter() - began
        if alone.wait():
            sys.exit(f"the undisturbed run failed: {(folder / 'alone.log').read_text()[-2000:]}")
        seconds = time.perf_counter() - began
        print(f"undisturbed: {seconds:.0f} s, the first checkpoint after {start_up_seconds:.1f} s\n")
        print("| went on from step | newest checkpoint after the kill | what the kill left |\n|---|---|---|")
        kills = 0
        while kills < arguments.kills:
            row = kill_once(folder, arguments, rng, kills, start_up_seconds)
            if row is None:
                log = (folder / "killed.log").read_text()[-2000:]
                sys.exit(f"the run ended by itself after {kills} kills; give more --steps, unless this is why: {log}")
            kills += 1
            print(row, flush=True)
        if start(folder, "killed", arguments).wait():
            sys.exit(f"the killed run failed: {(folder / 'killed.log').read_text()[-2000:]}")
        expected, actual = fingerprints(folder / "alone"), fingerprints(folder / "killed")
        print("\n| after all steps | equal to the bit |\n|---|---|")
        for name in expected:
            print(f"| {name} | {'yes' if expected[name] == actual.get(name) else 'NO'} |")
        damaged = (folder / "killed.log").read_text().count("is damaged")
        print(f"\n{kills} kills, {damaged} damaged checkpoints met")
        sys.exit(expected != actual)


if __name__ == "__main__":
    main()
