"""The suite `train`: its figures fit each other, and it sees steps that are not the plain ones."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention

from benchmarks import train as suite
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.networks.unet import create_unet
from tests.support.benchmark_helpers import run_suite


def multiply_adds(unet: UNet2DModel) -> int:
    """Count those of the layers with weights in a forward pass of one image; "tiny" has attention in its middle."""
    total = 0

    def count(layer: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, Attention):
            n, width = inputs[0].shape[-2] * inputs[0].shape[-1], layer.inner_dim
            total += 2 * n * n * width
        else:
            total += output.numel() * layer.weight[0].numel()

    for layer in unet.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear | Attention):
            layer.register_forward_hook(count)
    unet(torch.zeros(1, 3, 8, 8), 0)
    return total


def test_the_train_suite(tmp_path: Path, fresh_accelerate: None):
    options = "--num_images 8 --train_batch_size 4 --resolution 8 --preset tiny --mixed_precision no"
    results = run_suite("train", tmp_path, f"{options} --num_compared_steps 4 --peak_tflops 0.2")
    assert results["settings of all loops"][0]["images"] == 8
    rows = {row["loop"]: row for row in results["training"]}
    assert list(rows)[:2] == ["stock, from files", "ours, from files"]
    assert "stock, the step alone" in rows
    assert "ours, the step alone" in rows
    row = rows["ours, from files"]
    stock = rows["stock, from files"]["images/s"]["median"]
    assert row["to stock"]["median"] == pytest.approx(row["images/s"]["median"] / stock, abs=0.02)
    flops = 3 * 2 * multiply_adds(create_unet("tiny", 8))
    used = row["model FLOP utilisation"]["median"] * 0.2e12
    assert used == pytest.approx(flops * row["images/s"]["median"], rel=0.02)
    assert len(results["images of one epoch"]) == 3
    (numerics,) = results["the same steps in two ways"]
    assert numerics["plain float32 loop"] < numerics["held-out loss before"] - 0.01
    assert abs(numerics["difference in percent"]) < 1e-3


def test_the_train_suite_sees_steps_that_are_others(benchmark_config: TrainingConfig):
    (row,) = suite.numeric_rows(replace(benchmark_config, snr_gamma=0.01), 4)
    assert row["difference in percent"] == pytest.approx(100 * (row["ours"] / row["plain float32 loop"] - 1), rel=0.01)
    assert abs(row["difference in percent"]) > 0.1


def test_the_flops_of_the_train_suite_are_those_of_its_layers():
    unet = create_unet("tiny", 8)
    assert suite.forward_flops(unet) == pytest.approx(2 * multiply_adds(unet), rel=1e-6)
