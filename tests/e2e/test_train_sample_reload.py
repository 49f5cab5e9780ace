"""Train, stop, continue, sample and reload with the scripts; what loads a model does so in a fresh process."""

import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import DDIMScheduler
from PIL import Image
from safetensors.torch import load_file

from ddpm_cars import DDPMCarsPipeline
from ddpm_cars.runs.checkpoints import load_checkpoint
from ddpm_cars.runtime.threads import num_cores
from tests.support.training_helpers import SCRIPTS, Runs, assert_same_bits

LAUNCH = (
    *"-m accelerate.commands.launch --cpu --num_processes 1 --num_machines 1".split(),
    *"--mixed_precision no --dynamo_backend no".split(),
)
SETTINGS = {"train_data_dir": "drawn-cars", "logging_steps": 1, "save_images_steps": 4, "eval_batch_size": 4}
# Loads the pipeline of argv[1] and stores four of its samples in argv[2].
FRESH_PROCESS = """
import sys, numpy as np, torch
from ddpm_cars import DDPMCarsPipeline
pipe = DDPMCarsPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
np.save(sys.argv[2], pipe(4, torch.Generator().manual_seed(3), output_type="np").images)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_unet_config: dict) -> Runs:
    """Runs on toy cars that scripts/draw_toy_cars.py has drawn."""
    runs = Runs(tmp_path_factory.mktemp("train_sample_reload"), tiny_unet_config)
    settings = "--output_dir drawn-cars --resolution 8 --num_train_images 24 --num_test_images 8"
    runs.run(SCRIPTS / "draw_toy_cars.py", *settings.split())
    for split, count in (("train", 24), ("test", 8)):
        pictures = sorted((runs.folder / "drawn-cars" / split).glob("*.png"))
        assert [pixels(path).shape for path in pictures] == [(8, 8, 3)] * count
    return runs


@pytest.fixture(scope="module")
def trained(runs: Runs) -> Path:
    """Twelve steps without a break, by `accelerate launch -m ddpm_cars train`."""
    run = runs.train_apart("trained", *LAUNCH, script="-m ddpm_cars train", **SETTINGS, logger="tensorboard")
    assert run.stdout.splitlines()[-4:] == [
        "model: trained",
        "samples: trained/samples.png",
        "denoising: trained/denoising.png",
        "loss: trained/loss.png",
    ]
    # One thread is what the launcher gives where nothing else is said.
    warned = [line for line in run.stderr.replace("\r", "\n").splitlines() if "warning" in line.lower()]
    assert "with 32 images the network will mostly learn to repeat them" in warned.pop()
    assert "warning: With these 20 timesteps alpha_bar_T is " in warned.pop()
    assert len(warned) == (num_cores() > 1)
    assert all(f"accelerate launch uses one of {num_cores()} cores" in line for line in warned)
    return runs.folder / "trained"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image, dtype=int)


def test_everything_promised_is_written(runs: Runs, trained: Path):
    assert {path.name for path in trained.iterdir()} == {
        *("model_index.json", "unet", "scheduler", "pipeline.py", "training.json"),
        *("samples.png", "denoising.png", "samples", "loss.png", "loss.json"),
        *("config.yaml", "checkpoints", "logs", "pictures.json"),
    }
    assert json.loads((trained / "model_index.json").read_text())["_class_name"] == "DDPMPipeline"
    assert [path.name for path in (trained / "unet").glob("*.safetensors")] == ["diffusion_pytorch_model.safetensors"]
    assert json.loads((trained / "scheduler/scheduler_config.json").read_text())["num_train_timesteps"] == 20
    assert sorted(os.listdir(trained / "checkpoints")) == ["step-00000008", "step-00000012"]
    assert sorted(os.listdir(trained / "samples")) == ["step-00000004.png", "step-00000008.png"]
    grids = [pixels(path) for path in (*sorted((trained / "samples").iterdir()), trained / "samples.png")]
    assert len({grid.shape for grid in grids}) == 1
    assert all((a != b).any() for a, b in pairwise(grids))
    assert pixels(trained / "loss.png").std() > 1
    history = runs.records("trained")
    assert [record["step"] for record in history] == list(range(1, 13))
    assert {record["learning_rate"] for record in history} == {0.01}
    settings = yaml.safe_load((trained / "config.yaml").read_text())
    assert (settings["max_train_steps"], settings["resolution"], settings["logger"]) == (12, 8, "tensorboard")


def test_the_saved_network_holds_the_averaged_weights(trained: Path):
    saved = load_file(trained / "unet/diffusion_pytorch_model.safetensors")
    averaged = load_checkpoint(trained / "checkpoints/step-00000012")[0]["average-7000"]
    assert saved.keys() == averaged.keys()
    assert all(torch.equal(saved[name], averaged[name]) for name in saved)


# tensorboard's generated protobuf modules warn about the protobuf they meet.
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_holds_the_losses(runs: Runs, trained: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scalars = {}
    for file in (trained / "logs").rglob("events.out.tfevents.*"):
        events = EventAccumulator(str(file)).Reload()
        if "loss" in events.Tags()["scalars"]:
            scalars |= {event.step: event.value for event in events.Scalars("loss")}
    assert scalars == pytest.approx({record["step"]: record["loss"] for record in runs.records("trained")})


def test_a_stopped_run_continues_to_the_same_bits(runs: Runs, trained: Path):
    runs.train("stopped", **SETTINGS, max_train_steps=5)
    assert sorted(os.listdir(runs.folder / "stopped/checkpoints")) == ["step-00000004", "step-00000005"]
    continued = runs.train("stopped", **SETTINGS)
    assert "continuing from stopped/checkpoints/step-00000005" in continued.stdout
    assert_same_bits(runs, "trained", "stopped")
    assert (pixels(runs.folder / "stopped/samples.png") == pixels(trained / "samples.png")).all()


def test_a_finished_command_succeeds_again_and_changes_no_weight(runs: Runs, trained: Path):
    files = sorted(trained.rglob("*.safetensors"))
    before = {file: file.read_bytes() for file in files}
    runs.train("trained", **SETTINGS)
    assert {file: file.read_bytes() for file in sorted(trained.rglob("*.safetensors"))} == before
    assert len(runs.records("trained")) == 12


def test_a_changed_learning_rate_is_refused_where_no_step_is_left(runs: Runs, trained: Path):
    before = {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()}
    refused = runs.train("trained", code=2, **SETTINGS, learning_rate=0.5)
    assert "at step 12 of 12, so no step is left that learning_rate 0.01 -> 0.5 could change" in runs.last_line(
        refused
    )
    assert {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()} == before


def test_samples_are_those_of_the_pipeline(runs: Runs, trained: Path):
    runs.run(
        SCRIPTS / "sample.py",
        *f"--pretrained_model_name_or_path {trained} --scheduler DDIMScheduler --strip --output_dir drawn".split(),
        *"--num_images 3 --batch_size 2 --seed 5 --num_inference_steps 4 --mixed_precision no".split(),
    )
    pictures = {path.name for path in (runs.folder / "drawn").glob("*.png")}
    assert pictures == {"00000.png", "00001.png", "00002.png", "denoising.png", "grid.png"}
    pipe = DDPMCarsPipeline.from_pretrained(trained)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    alone = [pipe(1, torch.Generator().manual_seed(5 + i), 4).images[0] for i in range(3)]
    for i, image in enumerate(alone):
        # The size of the batch may change how a sum is rounded.
        assert np.abs(pixels(runs.folder / f"drawn/{i:05d}.png") - np.asarray(image, dtype=int)).max() <= 1
    assert (np.asarray(alone[0]) != np.asarray(alone[1])).any()
    rows, columns = pixels(runs.folder / "drawn/denoising.png").shape[:2]
    assert rows >= 3 * 8
    assert columns >= 4 * 8


def test_show_writes_the_pictures_and_their_noising(runs: Runs):
    settings = "--train_data_dir drawn-cars --resolution 8 --output_dir preview"
    runs.run(SCRIPTS / "show.py", *settings.split())
    assert sorted(os.listdir(runs.folder / "preview")) == ["dataset.png", "noising.png"]
    grid = pixels(runs.folder / "preview/dataset.png")
    # 32 images of 8x8 pixels take at least their own area.
    assert grid.shape[0] * grid.shape[1] >= 32 * 64
    assert grid.std() > 10


def test_a_fresh_process_draws_the_same_pictures(runs: Runs, trained: Path):
    runs.run_code(FRESH_PROCESS, "trained", "fresh.npy")
    pipe = DDPMCarsPipeline.from_pretrained(trained)
    here = pipe(4, torch.Generator().manual_seed(3), output_type="np").images
    fresh = np.load(runs.folder / "fresh.npy")
    assert fresh.shape == (4, 8, 8, 3)
    np.testing.assert_allclose(fresh, here, atol=1e-5)
    assert fresh.std() > 0.05


def test_no_pickle_is_on_the_disk(runs: Runs, trained: Path):
    assert list(trained.rglob("*.safetensors"))
    assert [path for path in runs.folder.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")] == []
