"""Time an import and the first image of a saved pipeline, each in a fresh process."""

import argparse
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import DDPMPipeline, DDPMScheduler

from benchmarks.measure import SEED, Rows, alternate, ratio, spread
from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.networks.unet import create_unet

NUM_REPEATS = 5

STOCK_IMPORT = "import torch, diffusers; from diffusers import DDPMPipeline, UNet2DModel"
OUR_IMPORT = "import ddpm_cars"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this suite."""
    parser.add_argument("--steps", type=int, default=10, help="denoising steps of the first image")


def first_image(pipeline_class: str, folder: Path, num_inference_steps: int) -> str:
    """Return the code that a person would write to see an image of a saved pipeline."""
    module, name = pipeline_class.rsplit(".", 1)
    return (
        f"from {module} import {name}\n"
        f"pipeline = {name}.from_pretrained({str(folder)!r})\n"
        f"image = pipeline(num_inference_steps={num_inference_steps}).images[0]"
    )


def seconds_of_code(code: str, before: str = "") -> float:
    """Return the seconds that some code takes in a fresh process, not counting the code `before`."""
    timed = f"{before}\nimport time\nstarted = time.perf_counter()\n{code}\nprint(time.perf_counter() - started)"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", timed]
    printed = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, check=True)
    return float(printed.stdout.split()[-1])


def save_pipelines(folder: Path) -> None:
    """Save the same tiny network as diffusers saves it, folder/stock, and as we do, folder/ours."""
    torch.manual_seed(SEED)
    unet = create_unet("tiny", 32)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder / "stock")
    DDPMCarsPipeline(unet, DDPMCarsScheduler()).save_pretrained(folder / "ours")


def rows_of_times(seconds: dict[str, list[float]], stock: str) -> Rows:
    """Return a row for each piece of code, compared with stock's."""
    return [
        {
            "code": name,
            "seconds": spread(values, 3),
            "seconds beyond stock": spread([a - b for a, b in zip(values, seconds[stock], strict=True)], 3),
            "to stock": ratio(values, seconds[stock], 3),
        }
        for name, values in seconds.items()
    ]


def import_rows(num_repeats: int) -> Rows:
    """Return rows for importing stock, ours, and ours in a process that has imported stock."""
    code = {f"stock: {STOCK_IMPORT}": (STOCK_IMPORT,), f"ours: {OUR_IMPORT}": (OUR_IMPORT,)}
    after = "ours, in a process that has imported stock"
    measures = {name: partial(seconds_of_code, *parts) for name, parts in code.items()}
    measures[after] = partial(seconds_of_code, OUR_IMPORT, before=STOCK_IMPORT)
    seconds = alternate(measures, num_repeats, "importing")
    beyond = seconds.pop(after)
    return [*rows_of_times(seconds, next(iter(code))), {"code": after, "seconds": spread(beyond, 3)}]


def first_images(folder: Path, num_inference_steps: int) -> dict[str, str]:
    """Save a tiny network in both ways and return the code that draws the first image of each."""
    save_pipelines(folder)
    return {
        "stock: DDPMPipeline": first_image("diffusers.DDPMPipeline", folder / "stock", num_inference_steps),
        "ours: DDPMCarsPipeline": first_image("ddpm_cars.DDPMCarsPipeline", folder / "ours", num_inference_steps),
    }


def run(arguments: argparse.Namespace) -> dict[str, Rows]:
    """Measure, and return the tables by their titles."""
    imports = import_rows(arguments.repeats)
    with TemporaryDirectory(prefix="benchmark-startup-") as folder:
        code = first_images(Path(folder), arguments.steps)
        measures = {name: partial(seconds_of_code, text) for name, text in code.items()}
        seconds = alternate(measures, arguments.repeats, "first images")
    title = f"first image of a saved tiny network, {arguments.steps} steps"
    return {"importing": imports, title: rows_of_times(seconds, next(iter(code)))}
