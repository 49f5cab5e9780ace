"""A folder as a finished run leaves it, made in a moment."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import UNet2DModel
from PIL import Image

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.runs.saved_pipeline import weights_sha256
from ddpm_cars.training.choices import choose_for_device, choose_for_length
from tests.support.report_helpers import full_metrics

SECRET = "hf_" + "secret" * 5


def training_facts() -> dict[str, Any]:
    return {
        "format": 1,
        "steps": 12000,
        "global_batch_size": 32,
        "num_parameters": 1234,
        "average_half_life_steps": 400,
        "data": {"source": "photographs", "dataset_id": None, "num_images": 6633, "classes": []},
        "validation": {"split": "test", "num_images": 500, "eps_mse": 0.0123456},
        # The limit of the power is from an earlier version.
        "hardware": [
            {"device": "Some CPU", "num_processes": 2, "power_limit_watts": 100.0, "steps": 10000, "seconds": 7200.0},
            {"device": "Some GPU", "num_processes": 1, "steps": 2000, "seconds": 900.0},
        ],
        "versions": {"torch": "2.13.0"},
    }


def write_run(folder: Path, unet: UNet2DModel, **changes: Any) -> Path:
    """Write what a run and an evaluation leave, with the private things that must not be published.

    Args:
        folder: Where.
        unet: The network.
        changes: Settings of the run.
    """
    settings = {
        "train_data_dir": "/home/somebody/photographs",
        "output_dir": "/home/somebody/runs/cars",
        "cache_dir": "/home/somebody/cache",
        "validation_split": "test",
        "resolution": 8,
        "mixed_precision": "bf16",
        "learning_rate": 1e-4,
        **changes,
    }
    DDPMCarsPipeline(unet, DDPMCarsScheduler()).save_pretrained(folder)
    cpu = torch.device("cpu")
    config = choose_for_length(choose_for_device(TrainingConfig(**settings), cpu), cpu, num_images=6633)
    (folder / "config.yaml").write_text(yaml.safe_dump(asdict(config) | {"push_to_hub": True}), encoding="utf-8")
    (folder / "training.json").write_text(json.dumps(training_facts()))
    metrics = full_metrics()
    metrics["model"]["weights_sha256"] = weights_sha256(unet)[:16]
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    (folder / "evaluation" / "report.html").write_text("<p>/home/somebody</p>")
    for name in ("samples.png", "loss.png"):
        Image.new("RGB", (4, 4)).save(folder / name)
    (folder / "loss.json").write_text("[]")
    (folder / "pictures.json").write_text('{"source": "/home/somebody/photographs"}')
    (folder / "checkpoints" / "step-00000004").mkdir(parents=True)
    (folder / "checkpoints" / "step-00000004" / "optimizer.safetensors").write_bytes(b"moments")
    (folder / "logs").mkdir()
    (folder / "logs" / "events").write_text("/home/somebody")
    (folder / ".env").write_text(SECRET)
    return folder
