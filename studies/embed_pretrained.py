"""Put a trained model into the package, in half precision and measured.

python -m studies.embed_pretrained RUN
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

import ddpm_cars
from ddpm_cars.cli import commands as cli
from ddpm_cars.publishing.card import make_card
from ddpm_cars.publishing.files import content_of, model_files, run_files
from ddpm_cars.runs.run_folder import RunFolder
from ddpm_cars.runs.saved_pipeline import open_model_folder
from ddpm_cars.runtime.files import atomic_path

NAME = "toy-cars-32"
MODEL_LICENSE = "apache-2.0"
DATA_LICENSE = "Apache-2.0; the images are drawn by this project (ddpm_cars.toy_cars), and the model is free to use"
# Of 20,000 drawings a tenth is enough to compare with.
MEASURE = (
    *"--split train[:2000] --validation_split test --num_images 400 --num_inference_steps 100".split(),
    *"--num_likelihood_images 16 --mixed_precision no".split(),
)
# Its code is the package; the curves are in the documentation.
LEFT_OUT = ("pipeline.py", "loss.json", "loss.png", "validation.json")


def halve(run: Path, folder: Path) -> None:
    """Copy a run's model, its weights rounded to float16, and what the run says of itself."""
    pipeline = open_model_folder(run).pipeline
    pipeline.unet.to(torch.float16)
    pipeline.save_pretrained(folder)
    named = RunFolder(run)
    for path in (named.settings, named.facts, named.samples):
        shutil.copyfile(path, folder / path.name)


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; None is that of the process."""
    parser = argparse.ArgumentParser(
        "python -m studies.embed_pretrained",
        description="Replace the model inside the package by that of a run, in half precision and measured.",
    )
    parser.add_argument("run", type=Path, help="output folder of the run; the recipe pretrained makes one")
    return parser.parse_args(argv)


def main() -> None:
    """Measure the rounded model, and replace the one inside the package by it."""
    run = read_arguments().run
    # It stays beside the run, so that the same command goes on with what is not measured yet.
    folder = run / NAME
    halve(run, folder)
    source = open_model_folder(run).settings or {}
    model = ["--pretrained_model_name_or_path", str(folder), "--train_data_dir", str(source["train_data_dir"])]
    cli.calibrate([*model, "--split", "train"])
    cli.evaluate([*model, *MEASURE])
    finished = open_model_folder(folder)
    files = {**model_files(finished), **run_files(finished)}
    files["README.md"] = make_card(finished, NAME, None, MODEL_LICENSE, DATA_LICENSE).encode()
    with atomic_path(ddpm_cars.pretrained()) as target:
        for name, data in files.items():
            if name not in LEFT_OUT:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (target / name).write_bytes(content_of(data))
    print(f"embedded: {ddpm_cars.pretrained()}")


if __name__ == "__main__":
    main()
