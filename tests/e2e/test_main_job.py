"""The main job in real processes: pictures in; a trained pipeline, a grid and a reloadable model out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ddpm_cars import DDPMCarsPipeline

ROOT = Path(__file__).parents[2]
TINY_UNET = {
    "block_out_channels": [4, 8],
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "attention_head_dim": 4,
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
}


class Workshop:
    """A folder with toy cars and a tiny network, and the scripts to use them with."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.model_config = folder / "unet.json"
        self.model_config.write_text(json.dumps(TINY_UNET))

    def run(self, *command: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
        environment = {
            **os.environ,
            "HF_DATASETS_CACHE": str(self.folder / "cache"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        arguments = [sys.executable, *launcher, str(ROOT / "scripts" / command[0]), *command[1:]]
        return subprocess.run(arguments, cwd=self.folder, env=environment, capture_output=True, text=True)

    def train(self, output_dir: str, *flags: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
        # fmt: off
        defaults = [
            "--train_data_dir", "cars", "--resolution", "8", "--model_config", str(self.model_config),
            "--num_train_timesteps", "30", "--train_batch_size", "4", "--lr_scheduler", "constant",
            "--learning_rate", "0.01", "--logging_steps", "1", "--checkpointing_steps", "3", "--eval_batch_size", "4",
            "--output_dir", output_dir,
        ]
        # fmt: on
        return self.run("train.py", *defaults, *flags, launcher=launcher)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    workshop = Workshop(tmp_path_factory.mktemp("workshop"))
    drawn = workshop.run(
        "draw_toy_cars.py", *"--output_dir cars --resolution 8 --num_train_images 24 --num_test_images 8".split()
    )
    assert drawn.returncode == 0, drawn.stderr
    return workshop


@pytest.fixture(scope="module")
def trained(workshop: Workshop) -> Path:
    """Twelve undisturbed steps under `accelerate launch`."""
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1")
    launcher += ("--mixed_precision", "no", "--dynamo_backend", "no")
    flags = ("--max_train_steps", "12", "--save_images_steps", "6", "--logger", "tensorboard")
    run = workshop.train("trained", *flags, launcher=launcher)
    assert run.returncode == 0, run.stderr
    return workshop.folder / "trained"


def tensors_of(run: Path, step: int) -> dict[str, torch.Tensor]:
    files = sorted((run / "checkpoints" / f"step-{step:08d}").glob("*.safetensors"))
    assert [file.stem for file in files] == ["ema", "optimizer", "unet"]
    return {f"{file.stem}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


def losses_of(run: Path) -> list[tuple[int, float]]:
    return [(record["step"], record["loss"]) for record in json.loads((run / "loss.json").read_text())]


def test_a_run_leaves_all_that_it_promises(trained: Path):
    for name in ("model_index.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"):
        assert (trained / name).is_file(), name
    for name in ("samples.png", "samples/step-00000006.png", "loss.png"):
        with Image.open(trained / name) as image:
            image.load()
    assert [path.name for path in sorted((trained / "checkpoints").iterdir())] == ["step-00000009", "step-00000012"]
    assert list((trained / "logs").rglob("events.out.tfevents.*"))
    assert [step for step, _ in losses_of(trained)] == list(range(1, 13))
    assert not [path for path in trained.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".tmp")]


def test_an_interrupted_run_continues_to_the_same_bits(workshop: Workshop, trained: Path):
    for steps in ("5", "12"):
        run = workshop.train("interrupted", "--max_train_steps", steps, "--save_images_steps", "6")
        assert run.returncode == 0, run.stderr
    assert "continuing from" in run.stdout
    interrupted = workshop.folder / "interrupted"
    expected, actual = tensors_of(trained, 12), tensors_of(interrupted, 12)
    assert expected.keys() == actual.keys()
    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []
    assert losses_of(interrupted) == losses_of(trained)


def test_a_finished_run_may_be_repeated_and_other_settings_are_refused(workshop: Workshop, trained: Path):
    weights = (trained / "unet/diffusion_pytorch_model.safetensors").read_bytes()
    again = workshop.run("train.py", "--config", str(trained / "config.yaml"))
    assert again.returncode == 0, again.stderr
    assert (trained / "unet/diffusion_pytorch_model.safetensors").read_bytes() == weights
    other = workshop.run("train.py", "--config", str(trained / "config.yaml"), "--learning_rate", "0.5")
    assert other.returncode == 2
    assert "learning_rate 0.01 (now 0.5)" in other.stderr
    assert "Traceback" not in other.stderr


def test_two_processes_train_like_one(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    # `accelerate launch --cpu` would start one process: without a GPU this variable makes --multi_gpu use gloo.
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    launcher = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
    launcher += ("--mixed_precision", "no", "--dynamo_backend", "no")
    flags = ("--train_batch_size", "2", "--max_train_steps", "3", "--checkpoints_total_limit", "9")
    run = workshop.train("two", *flags, launcher=launcher)
    assert run.returncode == 0, run.stderr
    one = workshop.train("one", "--max_train_steps", "3", "--checkpoints_total_limit", "9")
    assert one.returncode == 0, one.stderr
    expected, actual = (tensors_of(workshop.folder / name, 3) for name in ("one", "two"))
    for group in ("unet", "ema", "optimizer"):
        # Norms of the whole, because Adam turns rounding into steps where a gradient is zero but for rounding.
        names = [name for name in expected if name.startswith(group)]
        error = torch.cat([(actual[name] - expected[name]).flatten() for name in names]).norm()
        assert error < 1e-3 * torch.cat([expected[name].flatten() for name in names]).norm(), group
    np.testing.assert_allclose(losses_of(workshop.folder / "two"), losses_of(workshop.folder / "one"), rtol=1e-5)


def test_sampling_gives_the_pictures_of_the_saved_pipeline(workshop: Workshop, trained: Path):
    sampled = workshop.run(
        "sample.py",
        *f"--pretrained_model_name_or_path {trained} --num_images 3 --batch_size 2 --seed 7 --strip".split(),
        *"--scheduler DDIMScheduler --num_inference_steps 5 --output_dir drawn".split(),
    )
    assert sampled.returncode == 0, sampled.stderr
    assert {path.name for path in (workshop.folder / "drawn").iterdir()} == {
        "00000.png", "00001.png", "00002.png", "grid.png", "denoising.png",
    }  # fmt: skip
    from diffusers import DDIMScheduler

    pipe = DDPMCarsPipeline.from_pretrained(trained)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    generators = [torch.Generator().manual_seed(7 + i) for i in range(3)]
    for i, image in enumerate(pipe(3, generators, 5).images):
        with Image.open(workshop.folder / "drawn" / f"{i:05d}.png") as drawn:
            # One thread there and several here may round a grey level differently.
            assert np.abs(np.asarray(drawn, dtype=int) - np.asarray(image, dtype=int)).max() <= 1


def test_show_writes_the_preview_and_the_noising(workshop: Workshop):
    shown = workshop.run("show.py", *"--train_data_dir cars --resolution 8 --output_dir preview".split())
    assert shown.returncode == 0, shown.stderr
    assert "32 pictures" in shown.stdout
    for name in ("dataset.png", "noising.png"):
        with Image.open(workshop.folder / "preview" / name) as image:
            assert np.asarray(image).std() > 10


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--learning_rte", "1"), "learning_rte"),
        (("--train_data_dir", "nowhere"), "nowhere"),
        (("--resolution", "9"), "resolution is 9"),
    ],
)
def test_a_mistake_gives_one_line_and_exit_code_2(workshop: Workshop, flags: tuple[str, ...], words: str):
    run = workshop.train("mistake", *flags)
    assert run.returncode == 2
    assert words in run.stderr.splitlines()[-1]
    assert run.stderr.count("error") == 1
    assert "Traceback" not in run.stderr
