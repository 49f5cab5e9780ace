"""What a run says of itself: training.json, the hardware, and settings without the paths of a machine."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.runs.public_settings import dataset_id, public_settings
from ddpm_cars.runtime import hardware
from ddpm_cars.runtime.hardware import describe_hardware, device_name, power_limit_watts
from ddpm_cars.training.trainer import Trainer, train
from tests.support.trainer_helpers import forget_accelerate

CPU = torch.device("cpu")
FAKE_TOOL = """#!/bin/sh
echo "GPU-other, 300.00"
echo "GPU-mine, 700.00"
"""


def facts_of(config: TrainingConfig) -> dict[str, Any]:
    return json.loads((Path(config.output_dir) / "training.json").read_text())


def test_a_run_says_what_it_was(make_config: Callable[..., TrainingConfig]):
    forget_accelerate()
    config = make_config(max_train_steps=40, use_ema=True, ema_half_life_steps=(7000,), logging_steps=3)
    train(config)
    facts = facts_of(config)
    assert facts["steps"] == 40
    assert facts["global_batch_size"] == config.train_batch_size
    # Not 7000 yet: so many steps back the weights have half of the say.
    shares, rest = [], 1.0
    for step in range(39, 0, -1):
        decay = 1 - (1 + step) ** -0.75
        shares.append(rest * (1 - decay))
        rest *= decay
    assert facts["average_half_life_steps"] == pytest.approx(np.searchsorted(np.cumsum(shares), 0.5), abs=2)
    assert facts["data"]["num_images"] > 0
    assert facts["data"]["source"] == Path(str(config.train_data_dir)).name
    assert facts["validation"] is None
    (part,) = facts["hardware"]
    assert part["steps"] == 40
    assert part["seconds"] > 0
    assert part["device"] == device_name(CPU)
    assert facts["versions"]["torch"] == torch.__version__


def test_parts_of_a_run_on_other_hardware_are_told_apart(make_config: Callable[..., TrainingConfig]):
    forget_accelerate()
    config = make_config(max_train_steps=4, checkpointing_steps=4, logging_steps=3, use_ema=False)
    train(config)
    forget_accelerate()
    longer = Trainer(replace(config, max_train_steps=10))
    longer.hardware = {**longer.hardware, "device": "another"}
    longer.run()
    facts = facts_of(config)
    assert [(part["device"], part["steps"]) for part in facts["hardware"]] == [(device_name(CPU), 4), ("another", 6)]


def test_steps_that_were_not_counted_before_a_stop_are_counted_after_it(make_config: Callable[..., TrainingConfig]):
    forget_accelerate()
    trainer = Trainer(make_config(max_train_steps=9))
    trainer.state.step = 3
    trainer.state.count_time({"device": "a"}, 2.0)
    trainer.state.step = 8
    trainer.state.count_time({"device": "a"}, 1.0)
    assert trainer.state.hardware == [{"device": "a", "steps": 8, "seconds": 11.0}]
    trainer.close()


def test_the_cpu_has_a_name():
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    assert device_name(CPU)
    if "model name" in text:
        assert device_name(CPU) in text


def test_packages_are_added_up_and_their_parts_are_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(hardware, "_POWERCAP", tmp_path)
    assert power_limit_watts(CPU) is None
    assert describe_hardware(CPU, 2)["power_limit_watts"] is None
    for name, microwatts in (("intel-rapl:0", 125_000_000), ("intel-rapl:1", 100_000_000), ("intel-rapl:0:0", 9)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "constraint_0_power_limit_uw").write_text(f"{microwatts}\n")
    assert power_limit_watts(CPU) == 225.0
    # Processes of a machine share its CPUs.
    assert describe_hardware(CPU, 2) == {"device": device_name(CPU), "num_processes": 2, "power_limit_watts": 225.0}
    (tmp_path / "intel-rapl:1" / "constraint_0_power_limit_uw").write_text("0\n")
    assert power_limit_watts(CPU) is None


def test_the_limit_of_a_gpu_is_found_by_its_uuid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(FAKE_TOOL)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    for uuid, watts in (("mine", 700.0), ("unknown", None)):
        properties = type("Properties", (), {"uuid": uuid})
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, found=properties: found)
        assert power_limit_watts(gpu) == watts
    properties = type("Properties", (), {"uuid": "mine"})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    # Each process has a GPU of its own.
    assert describe_hardware(gpu, 4) == {"device": "A GPU", "num_processes": 4, "power_limit_watts": 2800.0}
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert power_limit_watts(gpu) is None


def test_paths_of_the_machine_are_cut_off(tmp_path: Path):
    shards = tmp_path / "shards"
    shards.mkdir()
    settings = {"output_dir": "/a/b", "cache_dir": "/c", "learning_rate": 0.1, "model_config": "/d/unet.json"}
    public = public_settings({**settings, "train_data_dir": "/e/f", "dataset_name": None, "push_to_hub": True})
    assert public == {
        "learning_rate": 0.1,
        "model_config": "unet.json",
        "train_data_dir": "f",
        "dataset_name": None,
    }
    assert public_settings({"dataset_name": str(shards)})["dataset_name"] == "shards"
    assert public_settings({"dataset_name": "somebody/cars"})["dataset_name"] == "somebody/cars"
    assert dataset_id({"dataset_name": str(shards)}) is None
    assert dataset_id({"dataset_name": "somebody/cars"}) == "somebody/cars"
    assert dataset_id({}) is None
