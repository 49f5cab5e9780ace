"""Train, stop, continue, sample and reload with the scripts, each in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
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

SCRIPTS = Path(__file__).parents[2] / "scripts"
LAUNCH = (
    *"-m accelerate.commands.launch --cpu --num_processes 1 --num_machines 1".split(),
    *"--mixed_precision no --dynamo_backend no".split(),
)
# `accelerate launch --cpu` starts several processes through MPI only; torch's own launcher needs none.
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
# Loads the pipeline of argv[1] and stores four of its samples in argv[2].
FRESH_PROCESS = """
import sys, numpy as np, torch
from ddpm_cars import DDPMCarsPipeline
pipe = DDPMCarsPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
np.save(sys.argv[2], pipe(4, torch.Generator().manual_seed(3), output_type="np").images)
"""

Python = Callable[..., subprocess.CompletedProcess]
Train = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train_sample_reload")


@pytest.fixture(scope="module")
def python(folder: Path) -> Python:
    """Run Python in `folder`, on one thread, offline."""

    def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ACCELERATE_")}
        environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=folder,
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture(scope="module")
def train(folder: Path, python: Python, tiny_unet_config: dict) -> Train:
    """Run scripts/train.py on 32 toy cars."""
    drawn = python(
        SCRIPTS / "draw_toy_cars.py",
        *"--output_dir cars --resolution 8 --num_train_images 24 --num_test_images 8".split(),
    )
    assert drawn.returncode == 0, drawn.stderr
    for split, count in (("train", 24), ("test", 8)):
        pictures = sorted((folder / "cars" / split).glob("*.png"))
        assert [pixels(path).shape for path in pictures] == [(8, 8, 3)] * count
    (folder / "unet.json").write_text(json.dumps(tiny_unet_config))
    settings = {
        "train_data_dir": "cars",
        "resolution": 8,
        "model_config": "unet.json",
        "num_train_timesteps": 20,
        "train_batch_size": 8,
        "learning_rate": 0.01,
        "lr_scheduler": "constant",
        "logging_steps": 1,
        "checkpointing_steps": 4,
        "save_images_steps": 4,
        "eval_batch_size": 4,
    }

    def run(output_dir: str, *flags: str, launcher: tuple[str, ...] = (), **changes: object):
        now = {**settings, "output_dir": output_dir, **changes}
        pairs = [text for name, value in now.items() for text in (f"--{name}", str(value))]
        variables = {"ACCELERATE_USE_CPU": "true"} if launcher == TWO_PROCESSES else {}
        return python(*launcher, SCRIPTS / "train.py", *pairs, *flags, **variables)

    return run


@pytest.fixture(scope="module")
def trained(folder: Path, train: Train) -> Path:
    """Twelve steps without a break, under `accelerate launch`."""
    run = train("trained", max_train_steps=12, logger="tensorboard", launcher=LAUNCH)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-3:] == [
        "model: trained",
        "samples: trained/samples.png",
        "loss: trained/loss.png",
    ]
    assert "warning" not in run.stderr.lower()
    return folder / "trained"


def tensors_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    files = sorted(checkpoint.glob("*.safetensors"))
    assert [file.stem for file in files] == ["average-7000", "optimizer", "unet"]
    return {f"{file.stem}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


def history_of(run: Path) -> list[dict[str, float]]:
    history = json.loads((run / "loss.json").read_text())
    return [{k: v for k, v in record.items() if k != "images_per_second"} for record in history]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image, dtype=int)


def test_everything_promised_is_written(trained: Path):
    assert {path.name for path in trained.iterdir()} == {
        *("model_index.json", "unet", "scheduler", "pipeline.py", "training.json"),
        *("samples.png", "samples", "loss.png", "loss.json"),
        *("config.yaml", "checkpoints", "logs", "pictures.json", ".lock"),
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
    history = history_of(trained)
    assert [record["step"] for record in history] == list(range(1, 13))
    assert {record["learning_rate"] for record in history} == {0.01}
    settings = yaml.safe_load((trained / "config.yaml").read_text())
    assert (settings["max_train_steps"], settings["resolution"], settings["logger"]) == (12, 8, "tensorboard")


def test_the_saved_network_holds_the_averaged_weights(trained: Path):
    saved = load_file(trained / "unet/diffusion_pytorch_model.safetensors")
    averaged = load_file(trained / "checkpoints/step-00000012/average-7000.safetensors")
    assert saved.keys() == averaged.keys()
    assert all(torch.equal(saved[name], averaged[name]) for name in saved)


# tensorboard's generated protobuf modules warn about the protobuf they meet.
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_holds_the_losses(trained: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scalars = {}
    for file in (trained / "logs").rglob("events.out.tfevents.*"):
        events = EventAccumulator(str(file)).Reload()
        if "loss" in events.Tags()["scalars"]:
            scalars |= {event.step: event.value for event in events.Scalars("loss")}
    assert scalars == pytest.approx({record["step"]: record["loss"] for record in history_of(trained)})


def test_a_stopped_run_continues_to_the_same_bits(folder: Path, train: Train, trained: Path):
    stopped = train("stopped", max_train_steps=5)
    assert stopped.returncode == 0, stopped.stderr
    assert sorted(os.listdir(folder / "stopped/checkpoints")) == ["step-00000004", "step-00000005"]
    continued = train("stopped", max_train_steps=12)
    assert continued.returncode == 0, continued.stderr
    assert "continuing from stopped/checkpoints/step-00000005" in continued.stdout
    expected, actual = (tensors_of(run / "checkpoints/step-00000012") for run in (trained, folder / "stopped"))
    assert expected.keys() == actual.keys()
    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []
    assert history_of(folder / "stopped") == history_of(trained)
    assert (pixels(folder / "stopped/samples.png") == pixels(trained / "samples.png")).all()


def test_a_finished_command_succeeds_again_and_changes_no_weight(train: Train, trained: Path):
    files = sorted(trained.rglob("*.safetensors"))
    before = {file: file.read_bytes() for file in files}
    again = train("trained", max_train_steps=12)
    assert again.returncode == 0, again.stderr
    assert {file: file.read_bytes() for file in sorted(trained.rglob("*.safetensors"))} == before
    assert len(history_of(trained)) == 12


def test_a_changed_learning_rate_is_refused(train: Train, trained: Path):
    before = {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()}
    refused = train("trained", max_train_steps=12, learning_rate=0.5)
    assert refused.returncode == 2
    assert "learning_rate 0.01 (now 0.5)" in refused.stderr.splitlines()[-1]
    assert "Traceback" not in refused.stderr
    assert {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()} == before


def test_samples_are_those_of_the_pipeline(folder: Path, python: Python, trained: Path):
    run = python(
        SCRIPTS / "sample.py",
        *f"--pretrained_model_name_or_path {trained} --scheduler DDIMScheduler --strip --output_dir drawn".split(),
        *"--num_images 3 --batch_size 2 --seed 5 --num_inference_steps 4".split(),
    )
    assert run.returncode == 0, run.stderr
    pictures = {path.name for path in (folder / "drawn").glob("*.png")}
    assert pictures == {"00000.png", "00001.png", "00002.png", "denoising.png", "grid.png"}
    pipe = DDPMCarsPipeline.from_pretrained(trained)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    alone = [pipe(1, torch.Generator().manual_seed(5 + i), 4).images[0] for i in range(3)]
    for i, image in enumerate(alone):
        # The size of the batch may change how a sum is rounded.
        assert np.abs(pixels(folder / f"drawn/{i:05d}.png") - np.asarray(image, dtype=int)).max() <= 1
    assert (np.asarray(alone[0]) != np.asarray(alone[1])).any()
    rows, columns = pixels(folder / "drawn/denoising.png").shape[:2]
    assert rows >= 3 * 8
    assert columns >= 4 * 8


def test_show_writes_the_pictures_and_their_noising(folder: Path, python: Python, train: Train):
    run = python(SCRIPTS / "show.py", *"--train_data_dir cars --resolution 8 --output_dir preview".split())
    assert run.returncode == 0, run.stderr
    assert sorted(os.listdir(folder / "preview")) == ["dataset.png", "noising.png"]
    grid = pixels(folder / "preview/dataset.png")
    # 32 pictures of 8x8 pixels take at least their own area.
    assert grid.shape[0] * grid.shape[1] >= 32 * 64
    assert grid.std() > 10


def test_a_fresh_process_draws_the_same_pictures(folder: Path, python: Python, trained: Path):
    run = python("-c", FRESH_PROCESS, trained, folder / "fresh.npy")
    assert run.returncode == 0, run.stderr
    pipe = DDPMCarsPipeline.from_pretrained(trained)
    here = pipe(4, torch.Generator().manual_seed(3), output_type="np").images
    fresh = np.load(folder / "fresh.npy")
    assert fresh.shape == (4, 8, 8, 3)
    np.testing.assert_allclose(fresh, here, atol=1e-5)
    assert fresh.std() > 0.05


def test_two_processes_train_like_one(folder: Path, train: Train):
    # A larger epsilon keeps Adam from enlarging the rounding of sums that are taken in another order.
    settings = {"max_train_steps": 4, "checkpointing_steps": 4, "adam_epsilon": 1e-3}
    two = train("two", train_batch_size=4, launcher=TWO_PROCESSES, **settings)
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("model: two") == 1
    one = train("one", train_batch_size=8, **settings)
    assert one.returncode == 0, one.stderr
    expected, actual = (tensors_of(folder / name / "checkpoints/step-00000004") for name in ("one", "two"))
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    losses = [[record["loss"] for record in history_of(folder / name)] for name in ("one", "two")]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_no_pickle_is_on_the_disk(folder: Path, trained: Path):
    assert list(trained.rglob("*.safetensors"))
    assert [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")] == []
