"""What is chosen where the user leaves a setting to the machine, against the rules as docs/training.md has them."""

import math
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from ddpm_cars.config.fields import AUTO
from ddpm_cars.config.training import TrainCommandConfig, TrainingConfig
from ddpm_cars.runtime.hardware import device_name
from ddpm_cars.training.choices import (
    choose_as_before,
    choose_for_device,
    choose_for_length,
    left_to_the_machine,
    length_warnings,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def float32_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute on a processor without bf16, started without a launcher, whatever runs this test."""
    set_bf16(monkeypatch, False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)


def set_bf16(monkeypatch: pytest.MonkeyPatch, has_bf16: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": has_bf16}, raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)


def chosen(
    device: torch.device, num_images: int | None = 1_000, num_processes: int = 1, **given: Any
) -> TrainingConfig:
    config = choose_for_device(TrainingConfig(**{"train_data_dir": "x", **given}), device)
    config = choose_for_length(config, device, num_images, num_processes)
    assert AUTO not in vars(config).values()
    return config


@pytest.mark.parametrize(
    ("device", "given", "preset", "resolution", "batch", "learning_rate"),
    [
        (CPU, {}, "tiny", 32, 8, 0.002),
        (CPU, {"resolution": 64}, "tiny", 64, 8, 0.002),
        (CPU, {"preset": "64"}, "64", 32, 8, 1e-4),
        (CPU, {"model_config": "unet.json"}, "tiny", 32, 8, 1e-4),
        (GPU, {}, "64", 64, 64, 1e-4),
        (GPU, {"resolution": 32}, "32", 32, 64, 1e-4),
        (GPU, {"resolution": 40}, "64", 40, 64, 1e-4),
        (GPU, {"preset": "tiny"}, "tiny", 64, 8, 0.002),
        (GPU, {"model_config": "unet.json", "preset": "tiny"}, "tiny", 64, 64, 1e-4),
        (GPU, {"learning_rate": 0.5, "train_batch_size": 3}, "64", 64, 3, 0.5),
    ],
)
def test_network_size_batch_and_learning_rate_follow_the_device(
    device: torch.device, given: dict, preset: str, resolution: int, batch: int, learning_rate: float
):
    config = chosen(device, **given)
    assert (config.preset, config.resolution, config.train_batch_size) == (preset, resolution, batch)
    assert config.learning_rate == learning_rate


@pytest.mark.parametrize(
    ("launcher", "has_bf16", "given", "expected"),
    [
        (None, False, {}, "no"),
        (None, True, {}, "bf16"),
        ("no", True, {}, "bf16"),
        ("fp16", True, {}, "fp16"),
        ("bf16", False, {}, "bf16"),
        ("bf16", True, {"mixed_precision": "no"}, "no"),
        (None, True, {"mixed_precision": None}, "bf16"),
    ],
)
@pytest.mark.parametrize("device", [CPU, GPU], ids=str)
def test_precision_is_that_of_the_settings_the_launcher_or_the_processor(
    monkeypatch: pytest.MonkeyPatch,
    device: torch.device,
    launcher: str | None,
    has_bf16: bool,
    given: dict,
    expected: str,
):
    set_bf16(monkeypatch, has_bf16)
    if launcher is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    config = chosen(device, **given)
    assert config.mixed_precision == expected
    if device == CPU:
        assert config.train_batch_size == (16 if expected == "bf16" else 8)


@pytest.mark.parametrize(("num_images", "batch"), [(1, 1), (2, 2), (7, 4), (8, 8), (50, 8)])
def test_a_batch_has_no_more_images_than_there_are(num_images: int, batch: int):
    assert chosen(CPU, num_images).train_batch_size == batch
    assert chosen(CPU, num_images, num_processes=2).train_batch_size == max(1, batch // 2) or num_images == 50
    assert chosen(CPU, num_images, train_batch_size=64).train_batch_size == 64
    assert chosen(GPU, 50).train_batch_size == 32


@pytest.mark.parametrize(
    ("device", "num_images", "steps"),
    [
        (CPU, 1, 2_000),
        (CPU, 300, 3_750),
        (CPU, 333, 4_163),
        (CPU, 100_000, 8_000),
        (CPU, None, 8_000),
        (GPU, 300, 10_000),
        (GPU, 16_185, 25_290),
        (GPU, 10**6, 100_000),
    ],
)
def test_a_run_is_100_passes_long_within_limits(device: torch.device, num_images: int | None, steps: int):
    config = chosen(device, num_images)
    assert (config.max_train_steps, config.num_epochs) == (steps, None)


@pytest.mark.parametrize("num_images", [1, 3, 50, 300])
@pytest.mark.parametrize(("epochs", "processes"), [(1, 1), (7, 1), (100, 1), (7, 3)])
def test_epochs_are_passes_over_all_images(num_images: int, epochs: int, processes: int):
    given = {"num_epochs": epochs, "train_batch_size": 8, "gradient_accumulation_steps": 2}
    steps = chosen(CPU, num_images, processes, **given).max_train_steps
    per_step = 16 * processes
    assert steps is not None
    assert 0 <= steps * per_step - epochs * num_images < per_step
    assert chosen(CPU, num_images, processes, **given, max_train_steps=5).max_train_steps == 5


def test_a_run_goes_on_with_the_splits_that_it_had():
    bare = TrainingConfig(train_data_dir="x")
    saved = checkpoint(chosen(CPU, 300, split_folders=False))
    assert choose_as_before(bare, saved, CPU, 1).split_folders is False
    assert choose_as_before(replace(bare, split_folders=True), saved, CPU, 1).split_folders is True
    assert choose_as_before(bare, checkpoint(chosen(CPU, 300)), CPU, 1).split_folders is None
    # Earlier versions did not have the setting, and left out what is beside splits.
    del saved["config"]["split_folders"]
    assert choose_as_before(bare, saved, CPU, 1).split_folders is True


@pytest.mark.parametrize("steps", [1, 19, 60, 400, 3_000, 10_000, 200_000])
def test_what_is_counted_in_steps_follows_the_length(steps: int):
    config = chosen(CPU, max_train_steps=steps, validation_split="test")
    assert config.lr_warmup_steps == min(500, math.floor(0.05 * steps))
    assert config.ema_half_life_steps == (max(1, min(7_000, math.floor(0.05 * steps))),)
    assert config.logging_steps == max(1, min(50, steps // 40))
    assert config.checkpointing_steps == max(1, min(500, steps // 5))
    assert config.save_images_steps == max(100, min(2_000, steps // 5))
    assert config.validation_steps == max(1, min(1_000, steps // 10))
    assert config.num_inference_steps == max(20, min(250, steps // 40))
    # The learning rate arrives, and grids take no more of a CPU's time than training does.
    assert config.lr_warmup_steps < steps
    grids = 1 + (steps - 1) // config.save_images_steps
    assert steps < 60 or grids * config.num_inference_steps * config.eval_batch_size / 3 < 0.4 * steps * 8
    assert chosen(CPU, max_train_steps=steps, num_train_timesteps=10).num_inference_steps == 10
    assert chosen(CPU, max_train_steps=steps).validation_steps is None


def test_what_is_given_is_never_changed():
    given: dict[str, Any] = {"train_batch_size": 3, "learning_rate": 0.5, "preset": "peer64", "resolution": 96}
    given |= {"lr_warmup_steps": 900, "ema_half_life_steps": (5, 9), "logging_steps": 1, "checkpointing_steps": None}
    given |= {"save_images_steps": None, "validation_steps": 7, "num_inference_steps": None, "max_train_steps": 17}
    given |= {"mixed_precision": "no", "validation_split": "test", "lr_scheduler": "linear", "max_grad_norm": None}
    config = TrainingConfig(train_data_dir="x", **given)
    assert left_to_the_machine(config) == set()
    assert chosen(CPU, **given) == config


def test_all_that_is_left_to_the_machine_is_known():
    expected = {"preset", "resolution", "mixed_precision", "train_batch_size", "learning_rate", "max_train_steps"}
    expected |= {"lr_warmup_steps", "ema_half_life_steps", "logging_steps", "checkpointing_steps"}
    expected |= {"save_images_steps", "validation_steps", "num_inference_steps", "lr_scheduler", "max_grad_norm"}
    assert left_to_the_machine(TrainCommandConfig(train_data_dir="x")) == expected


def checkpoint(
    config: TrainingConfig, batch: int = 8, device: str = device_name(CPU), **changes: Any
) -> dict[str, Any]:
    """Return what a checkpoint of a run with these settings says, some of which an earlier version had otherwise."""
    settings = {**asdict(config), "ema_half_life_steps": list(config.ema_half_life_steps), **changes}
    facts = {"global batch size": batch}
    return {
        "config": settings,
        "facts": facts,
        "total_steps": config.max_train_steps,
        "hardware": [{"device": device}],
    }


def test_a_run_goes_on_as_it_was_chosen_on_another_device():
    before, bare = chosen(CPU, 300), TrainingConfig(train_data_dir="x")
    again = choose_as_before(bare, checkpoint(before), GPU, 1)
    again = choose_for_length(choose_for_device(again, GPU), GPU, 300)
    assert again == before
    longer = choose_as_before(replace(bare, max_train_steps=9_000), checkpoint(before), CPU, 1)
    assert longer == replace(before, max_train_steps=9_000)
    passes = choose_as_before(replace(bare, num_epochs=2), checkpoint(before), CPU, 1)
    assert choose_for_length(passes, CPU, 300).max_train_steps == 75
    # Steps of a grid that are too many for other timesteps are no setting of the user to blame.
    assert (
        choose_as_before(replace(bare, num_train_timesteps=10), checkpoint(before), CPU, 1).num_inference_steps == AUTO
    )


@pytest.mark.parametrize(("num_processes", "size"), [(1, 16), (2, 8), (4, 4), (3, 5)])
def test_images_per_process_follow_the_number_of_processes(num_processes: int, size: int):
    before = checkpoint(chosen(GPU, 300), batch=16)
    again = choose_as_before(TrainingConfig(train_data_dir="x"), before, CPU, num_processes)
    assert again.train_batch_size == size


@pytest.mark.parametrize(
    ("before", "device", "has_bf16", "expected"),
    [
        ("no", device_name(CPU), True, "no"),
        ("bf16", device_name(CPU), False, "bf16"),
        ("no", "another CPU", True, "bf16"),
        ("bf16", "another CPU", False, "no"),
        ("fp16", "a GPU", False, "no"),
        (None, device_name(CPU), True, "no"),
    ],
)
def test_precision_changes_where_the_processor_does(
    monkeypatch: pytest.MonkeyPatch, before: str | None, device: str, has_bf16: bool, expected: str
):
    set_bf16(monkeypatch, has_bf16)
    saved = checkpoint(chosen(CPU, mixed_precision="no"), device=device, mixed_precision=before)
    bare = TrainingConfig(train_data_dir="x")
    assert choose_as_before(bare, saved, CPU, 1).mixed_precision == expected
    given = replace(bare, mixed_precision="bf16")
    assert choose_as_before(given, saved, CPU, 1).mixed_precision == "bf16"


def test_a_run_of_an_earlier_version_goes_on_to_the_same_step():
    # It counted 100 times the 4 whole batches of 300 images, and had no word for what is left to the machine.
    old = chosen(GPU, 300, num_epochs=100, lr_warmup_steps=500, ema_half_life_steps=7_000, train_batch_size=64)
    saved = checkpoint(old, 64, num_epochs=100, max_train_steps=None, mixed_precision=None, num_inference_steps=None)
    saved |= {"total_steps": 400, "hardware": []}
    for given in ({}, {"num_epochs": 100}):
        again = choose_as_before(TrainingConfig(train_data_dir="x", **given), saved, CPU, 1)
        assert (again.max_train_steps, again.lr_warmup_steps, again.ema_half_life_steps) == (400, 500, (7_000,))
        assert (again.mixed_precision, again.num_inference_steps, again.resolution) == ("no", None, 64)
    more = choose_as_before(TrainingConfig(train_data_dir="x", num_epochs=200), saved, CPU, 1)
    assert choose_for_length(more, CPU, 300).max_train_steps == 938


@pytest.mark.parametrize("steps", [1, 6, 99, 400])
def test_what_was_chosen_and_recorded_is_not_warned_of(steps: int):
    recorded = chosen(CPU, 300, max_train_steps=steps)
    assert length_warnings(recorded, set(), 300, recorded.train_batch_size) == []


def test_a_length_that_is_given_in_passes_is_not_left_to_the_machine():
    assert "max_train_steps" not in left_to_the_machine(TrainingConfig(train_data_dir="x", num_epochs=4))


def test_few_images_are_said():
    resolved = choose_for_length(choose_for_device(TrainingConfig(train_data_dir="x"), CPU), CPU, 5)
    [warning] = length_warnings(resolved, {"train_batch_size"}, 5, 8)
    assert warning == "with 5 images the network will mostly learn to repeat them; more images help most"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lr_warmup_steps": 400}, "lr_warmup_steps is 400 and the run has 400 steps, so the learning rate never"),
        ({"save_images_steps": 500}, "save_images_steps is 500, and the run has 400 steps, so that happens only at"),
        ({"checkpointing_steps": 401, "validation_steps": 402}, "checkpointing_steps is 401 and validation_steps is"),
        ({"train_batch_size": 256}, "a step takes 256 images and there are only 150"),
        ({"lr_warmup_steps": 400, "lr_scheduler": "constant"}, None),
        ({"lr_warmup_steps": 399, "save_images_steps": 400, "checkpointing_steps": None}, None),
        ({}, None),
    ],
)
def test_settings_that_do_not_fit_the_length_are_said(given: dict, words: str | None):
    config = TrainingConfig(train_data_dir="x", max_train_steps=400, validation_split="test", **given)
    resolved = choose_for_length(choose_for_device(config, CPU), CPU, 150)
    warnings = length_warnings(resolved, left_to_the_machine(config), 150, resolved.train_batch_size)
    assert len(warnings) == (words is not None)
    assert all(warning.startswith(words) for warning in warnings)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_epochs": 3, "max_train_steps": 7}, "num_epochs is 3 and max_train_steps is 7; max_train_steps decides"),
        ({"validation_steps": 3}, "validation_steps is 3 and validation_split is unset, so nothing is measured"),
        ({"num_epochs": 3, "validation_steps": None}, None),
        ({}, None),
    ],
)
def test_settings_that_contradict_each_other_are_said(given: dict, words: str | None):
    warnings = TrainingConfig(train_data_dir="x", **given).warnings()
    assert len(warnings) == (words is not None)
    assert all(warning.startswith(words) for warning in warnings)
    # What was chosen contradicts nothing, so that config.yaml can be given.
    assert words is not None or chosen(CPU, **given).warnings() == []
