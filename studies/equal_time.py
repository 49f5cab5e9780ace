"""Train several recipes for the same time each on this machine, and measure what each has reached.

    python -m studies.equal_time studies/recipes/recipe.yaml --minutes 5 --train_data_dir DIR \
        --output_dir runs/recipe

The file names the runs. Each is timed for some steps, trained for as many as fit into the minutes, and measured. What
is done is kept: the same command continues.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tqdm import tqdm

from benchmarks.measure import Rows, default_device, table
from ddpm_cars import DDPMCarsScheduler
from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.data.pictures import load_pictures
from ddpm_cars.runs.loading import load_pipeline
from ddpm_cars.runs.run_folder import RunFolder
from ddpm_cars.runtime.files import write_text
from ddpm_cars.training.validation import HeldOut

_NUM_PILOT_STEPS = 40
_PILOT = f"--max_train_steps {_NUM_PILOT_STEPS} --logging_steps 5 --num_validation_images 2 --save_images_steps null"


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; None is that of the process."""
    parser = argparse.ArgumentParser(
        "python -m studies.equal_time", description="Train several recipes for the same time each, and measure them."
    )
    parser.add_argument("runs", type=Path, help="YAML file that names the runs, such as those in studies/recipes")
    parser.add_argument("--minutes", type=float, required=True, help="minutes of training for every run")
    parser.add_argument("--train_data_dir", required=True, help="folder with the splits train and test")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the runs and what is known of them")
    parser.add_argument("--names", nargs="+", help="names of the runs to train; default: all of the file")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, of one thread each if there are several")
    return parser.parse_args(argv)


def common_eps_mse(folder: Path, train_data_dir: str) -> float:
    """Return the mean of |eps - eps_hat|^2 per dimension on the split test, at noise that every recipe knows.

    x_t has the noise levels of T = 300 betas from 1e-4 to 0.02, alpha_bar from 0.9999 to 0.048; a network is told the
    timestep at which its own schedule has that level, between two of them if need be.

    Args:
        folder: Of the saved pipeline.
        train_data_dir: With the split test.
    """
    device, pipeline = default_device(), load_pipeline(str(folder))
    pipeline.unet.to(device)
    pictures = load_pictures(
        ImageConfig(train_data_dir=train_data_dir, split="test", resolution=pipeline.unet.config.sample_size)
    )
    # The network may predict something else than eps; which noise levels there are does not depend on it.
    scheduler = DDPMCarsScheduler(num_train_timesteps=300, prediction_type=pipeline.scheduler.config.prediction_type)
    levels, own = (np.asarray(s.alphas_cumprod, np.float64) for s in (scheduler, pipeline.scheduler))
    # np.interp wants what it looks up in to rise.
    own_t = torch.from_numpy(np.interp(-_log_snr(levels), -_log_snr(own), np.arange(len(own)))).float().to(device)

    def network(x_t: torch.Tensor, t: torch.Tensor, **kwargs: Any) -> Any:
        return pipeline.unet(x_t, own_t[t], **kwargs)

    return HeldOut(pictures.images, None, scheduler, seed=0).eps_mse(network, device, batch_size=50)


def batch_size_of(folder: Path) -> int:
    """Return how many images a step of the run in a folder takes."""
    return int(RunFolder(folder).read_settings()["train_batch_size"])


def spent(history: list[dict[str, Any]], batch_size: int) -> dict[str, float]:
    """Return the steps, minutes and images a second of a run from its log, which leaves saving and measuring out."""
    steps = [record["step"] for record in history]
    taken = (b - a for a, b in zip([0, *steps], steps, strict=False))
    seconds = sum(n * batch_size / r["images_per_second"] for n, r in zip(taken, history, strict=True))
    return {"steps": steps[-1], "minutes": seconds / 60, "images_per_second": steps[-1] * batch_size / seconds}


def _log_snr(alpha_bar: np.ndarray) -> np.ndarray:
    return np.log(alpha_bar) - np.log1p(-alpha_bar)


class EqualTime:
    """The runs of a file, and what is known of them.

    Args:
        arguments: The command line.
    """

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.spec = yaml.safe_load(arguments.runs.read_text(encoding="utf-8"))
        self.runs = [run for run in self.spec["runs"] if run["name"] in (arguments.names or [run["name"]])]
        self.threads = {"OMP_NUM_THREADS": "1"} if arguments.jobs > 1 else {}

    def folder(self, name: str, suffix: str = "") -> Path:
        """Return where a run is, or the file beside it with a suffix."""
        return Path(self.arguments.output_dir) / (name.replace(" ", "-").replace("/", "-") + suffix)

    def known(self, name: str) -> dict[str, Any]:
        """Return what is known of a run; a file for each, so that several commands can share the folder."""
        path = self.folder(name, ".json")
        return json.loads(path.read_text()) if path.exists() else {}

    def record(self, name: str, **values: Any) -> None:
        """Keep what is known of a run."""
        path = self.folder(name, ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(self.known(name) | values, indent=1))

    def call(self, folder: Path, *command: str) -> None:
        """Run Python with a command for the run in a folder, and say where its output is if it fails."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        log = folder.with_name(f"{folder.name}.log")
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{shlex.join(command)}\n")
            file.flush()
            environment = os.environ | self.threads
            process = subprocess.run([sys.executable, *command], stdout=file, stderr=file, env=environment)
        if process.returncode:
            raise RuntimeError(f"{shlex.join(command)} exited with {process.returncode}; see {log}")

    def train(self, run: dict[str, Any], folder: Path, more: str) -> list[dict[str, Any]]:
        """Train a run into a folder, and return its log."""
        texts = (run.get("train", "-m ddpm_cars train"), self.spec["arguments"], run.get("arguments", ""), more)
        command = [word for text in texts for word in text.split()]
        places = ["--train_data_dir", self.arguments.train_data_dir, "--output_dir", str(folder)]
        self.call(folder, *command, *places)
        return json.loads(RunFolder(folder).loss.read_text())

    def pilot(self, run: dict[str, Any]) -> None:
        """Find how many seconds a step of a run takes."""
        name = run["name"]
        if "seconds_per_step" in self.known(name):
            return
        folder = Path(self.arguments.output_dir) / "timed" / self.folder(name).name
        history = self.train(run, folder, _PILOT)
        # The first steps also wait for memory.
        speed = statistics.median(record["images_per_second"] for record in history[2:])
        self.record(name, seconds_per_step=batch_size_of(folder) / speed)

    def train_and_measure(self, run: dict[str, Any]) -> None:
        """Train a run for the minutes, unless it is trained, and measure it, unless it is measured."""
        name = run["name"]
        folder, known = self.folder(name), self.known(name)
        if "steps" not in known:
            seconds = self.known(run.get("steps_of", name))["seconds_per_step"]
            steps = max(1, round(self.arguments.minutes * 60 / seconds))
            self.record(name, **spent(self.train(run, folder, f"--max_train_steps {steps}"), batch_size_of(folder)))
        if "eps_mse" not in known:
            self.record(name, eps_mse=common_eps_mse(folder, self.arguments.train_data_dir))
        if "evaluate" not in self.spec:
            return
        command = f"-m ddpm_cars evaluate {self.spec['evaluate']} --validation_split test".split()
        self.call(folder, *command, "--pretrained_model_name_or_path", str(folder))
        metrics = json.loads(RunFolder(folder).evaluation.metrics.read_text())
        bounds = {bound["variance_type"]: bound["bpd"] for bound in metrics.get("likelihood", [])}
        self.record(name, floor=metrics["floor"]["metrics"], bpd=bounds, **metrics["samples"][0]["metrics"])

    def rows(self) -> Rows:
        """Return a row per run with what it has reached."""
        rows = []
        for run in self.runs:
            r = self.known(run["name"])
            row = {"run": run["name"], "expected": run.get("expected", ""), "steps": f"{r['steps']:,}"}
            row |= {"minutes": f"{r['minutes']:.1f}", "images/s": f"{r['images_per_second']:.1f}"}
            row["eps-MSE"] = f"{r['eps_mse']:.5f}"
            if "frechet_distance" in r:
                row |= {f"bits, {kind}": f"{bpd:.2f}" for kind, bpd in r["bpd"].items()}
                row["Fréchet distance"] = f"{r['frechet_distance']:.1f} ± {r['frechet_distance_std_error']:.1f}"
                row |= {name: f"{r[name]:.2f}" for name in ("precision", "recall", "contrast") if name in r}
            rows.append(row)
        return rows


def main() -> None:
    """Do what is missing, and print the table."""
    study = EqualTime(read_arguments())
    runs = study.runs
    others = {run["steps_of"] for run in runs if "steps_of" in run}
    timed = [run for run in study.spec["runs"] if run["name"] in others or (run in runs and "steps_of" not in run)]
    if study.threads:
        torch.set_num_threads(1)
    with ThreadPoolExecutor(study.arguments.jobs) as pool:
        for work, on, title in ((study.pilot, timed, "timing"), (study.train_and_measure, runs, "training")):
            list(tqdm(pool.map(work, on), desc=title, total=len(on), unit="run"))
    if "evaluate" in study.spec:
        floor = study.known(runs[0]["name"])["floor"]["frechet_distance"]
        print(f"Fréchet distance of real images: {floor:.1f}\n")
    print(table(study.rows()))


if __name__ == "__main__":
    main()
