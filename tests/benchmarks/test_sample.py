"""The suite `sample`: the same images as stock, and figures that fit each other."""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from benchmarks import sample as suite
from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from tests.support.benchmark_helpers import run_suite


def test_the_sample_suite(tmp_path: Path, make_unet: Callable[..., UNet2DModel]):
    options = "--fast_dtypes --preset tiny --resolution 8 --steps 3 --batch_sizes 1 2"
    rows = run_suite("sample", tmp_path, options)["sampling"]
    pipelines = ("stock", "ours", "ours, as `ddpm-cars sample` places it")
    assert [(row["batch"], row["pipeline"]) for row in rows] == [(b, p) for b in (1, 2) for p in pipelines]
    assert not any(row["compiled"] or row["captured"] for row in rows)
    difference = "largest difference to stock in grey levels"
    assert all(row[difference] < 0.01 for row in rows)
    pipelines = {"stock": DDPMPipeline(make_unet(), DDPMScheduler())}
    pipelines["another"] = DDPMCarsPipeline(make_unet(seed=1), DDPMCarsScheduler())
    arguments = argparse.Namespace(steps=3, repeats=1)
    _, row = suite.rows_of_batch(pipelines, 2, arguments, torch.device("cpu"))
    images = [p(2, torch.Generator().manual_seed(0), 3, output_type="np").images for p in pipelines.values()]
    assert row[difference] == pytest.approx(255 * np.abs(images[0] - images[1]).max(), rel=0.01)
    assert row[difference] > 1
    seconds_per_image = 3 * row["ms a step"]["median"] / 1000 / 2
    assert row["images/s"]["median"] == pytest.approx(1 / seconds_per_image, rel=0.01)
