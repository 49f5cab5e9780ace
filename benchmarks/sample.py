"""Time sampling with the same weights and seeds: diffusers' DDPMPipeline, ours, and ours made fast."""

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel
from tqdm import tqdm

from benchmarks.measure import SEED, Apart, Rows, alternate, default_device, ratio, seconds_of, spread
from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.networks.unet import PRESETS, create_unet
from ddpm_cars.sampling.generate import move_for_inference

NUM_REPEATS = 7
_PLACED = "ours, as `ddpm-cars sample` places it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this suite."""
    on_gpu = default_device().type == "cuda"
    parser.add_argument(
        "--preset", choices=list(PRESETS), default="peer64" if on_gpu else "tiny", help="preset of the network"
    )
    parser.add_argument("--resolution", type=int, default=64 if on_gpu else 32, help="height and width")
    parser.add_argument("--steps", type=int, default=100 if on_gpu else 20, help="denoising steps of an image")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 16], help="images at a time")
    parser.add_argument(
        "--fast_dtypes",
        nargs="*",
        choices=["float32", "bfloat16", "float16"],
        default=["float32", "bfloat16"] if on_gpu else ["float32"],
        help="types of the network for ours with enable_fast_sampling()",
    )


@contextmanager
def open_pipelines(
    unet: UNet2DModel, fast_dtypes: Sequence[str], max_batch_size: int
) -> Iterator[dict[str, DiffusionPipeline]]:
    """Make the pipelines by name, stock first, all around the same weights."""
    pipelines: dict[str, DiffusionPipeline] = {
        "stock": DDPMPipeline(unet, DDPMScheduler()),
        "ours": DDPMCarsPipeline(unet, DDPMCarsScheduler()),
    }
    # Making a network fast changes it, which the other pipelines must not see.
    fast_ones = {
        f"ours, fast, {dtype}": DDPMCarsPipeline(copy.deepcopy(unet).to(getattr(torch, dtype)), DDPMCarsScheduler())
        for dtype in fast_dtypes
    }
    for pipeline in fast_ones.values():
        pipeline.enable_fast_sampling(max_batch_size=max_batch_size)
    pipelines |= fast_ones
    for pipeline in pipelines.values():
        pipeline.set_progress_bar_config(disable=True)
    try:
        yield pipelines
    finally:
        for pipeline in fast_ones.values():
            pipeline.disable_fast_sampling()


def draw(pipeline: Any, batch_size: int, num_inference_steps: int) -> np.ndarray:
    """Draw images, float32 (batch, H, W, C) in [0, 1], from the same noise for every pipeline."""
    generator = torch.Generator().manual_seed(SEED)
    return pipeline(batch_size, generator, num_inference_steps, output_type="np").images


class PlacedPipeline:
    """Our pipeline as `ddpm-cars sample` prepares it.

    Args:
        unet: The network of the pipeline.
    """

    def __init__(self, unet: UNet2DModel):
        self.pipeline = DDPMCarsPipeline(unet, DDPMCarsScheduler())
        move_for_inference(self.pipeline, default_device())
        self.pipeline.set_progress_bar_config(disable=True)

    def draw(self, batch_size: int, num_inference_steps: int) -> np.ndarray:
        """Draw images as `draw` does."""
        return draw(self.pipeline, batch_size, num_inference_steps)


def how_it_ran(pipeline: Any) -> dict[str, bool]:
    """Return what `enable_fast_sampling` has led to, if it was called: compilers may be missing or fail."""
    fast = getattr(pipeline, "fast_network", None)
    if fast is None or fast.compiled is None:
        return {"compiled": False, "captured": False}
    return {"compiled": True, "captured": fast.is_captured}


def rows_of_batch(
    pipelines: dict[str, DiffusionPipeline],
    batch_size: int,
    arguments: argparse.Namespace,
    device: torch.device,
    placed: Apart | None = None,
) -> Rows:
    """Return a row per pipeline at one batch size."""
    steps, images, first = arguments.steps, {}, {}

    def call(name: str) -> None:
        images[name] = draw(pipelines[name], batch_size, steps)

    measures: dict[str, Callable[[], float]] = {
        name: partial(seconds_of, partial(call, name), device) for name in pipelines
    }
    if placed is not None:
        measures[_PLACED] = partial(placed.seconds, "draw", batch_size, steps)
    for name, measure in tqdm(measures.items(), desc=f"first calls, batch {batch_size}", unit="call"):
        first[name] = measure()
    if placed is not None:
        images[_PLACED] = placed.call("draw", batch_size, steps)
    seconds = alternate(measures, arguments.repeats, f"sampling, batch {batch_size}")
    return [
        {
            "batch": batch_size,
            "pipeline": name,
            **how_it_ran(pipelines.get(name)),
            "ms a step": spread([1000 * value / steps for value in values], 3),
            "images/s": spread([batch_size / value for value in values]),
            "stock / this": ratio(seconds["stock"], values),
            "seconds of the first call": round(first[name], 2),
            "largest difference to stock in grey levels": float(
                f"{255 * np.abs(images[name] - images['stock']).max():.3g}"
            ),
        }
        for name, values in seconds.items()
    ]


def run(arguments: argparse.Namespace) -> dict[str, Rows]:
    """Measure, and return the tables by their titles."""
    device = default_device()
    torch.manual_seed(SEED)
    unet = create_unet(arguments.preset, arguments.resolution).to(device).eval()
    with open_pipelines(unet, arguments.fast_dtypes, max(arguments.batch_sizes)) as pipelines:
        # The first call of a process does some work once, which no pipeline should pay for.
        draw(pipelines["stock"], 1, 1)
        # On a GPU this pipeline is the plain one.
        placed = Apart(PlacedPipeline, unet) if device.type == "cpu" else None
        with closing(placed) if placed else nullcontext():
            rows = [
                row
                for size in arguments.batch_sizes
                for row in rows_of_batch(pipelines, size, arguments, device, placed)
            ]
    names = ("preset", "resolution", "steps")
    settings = {**{name: getattr(arguments, name) for name in names}, "parameters": unet.num_parameters()}
    return {"settings of all pipelines": [settings], "sampling": rows}
