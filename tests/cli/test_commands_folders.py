"""What commands leave behind: nothing if they are refused or only say what would happen, else what they print."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import UNet2DModel

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.cli.commands import COMMANDS
from ddpm_cars.toy_cars import write_toy_cars
from tests.support.picture_helpers import RED, save

TRAIN = "train --resolution 8 --model_config unet.json --num_train_timesteps 20 --train_batch_size 2"
MODEL = "--pretrained_model_name_or_path model"
REFUSED = [
    f"{TRAIN} --train_data_dir nowhere --output_dir new",
    f"{TRAIN} --train_data_dir empty --output_dir new/deeper",
    f"{TRAIN} --train_data_dir damaged --output_dir new",
    f"{TRAIN} --train_data_dir cars --output_dir cars/inside",
    f"{TRAIN} --train_data_dir cars --output_dir new --validation_split nowhere",
    f"{TRAIN} --train_data_dir cars --output_dir new --class_conditional --label_column colour --model_config model",
    f"{TRAIN} --train_data_dir cars --output_dir file",
    f"{TRAIN} --train_data_dir cars --output_dir trained --seed 5",
    "show --resolution 8 --train_data_dir empty --output_dir new",
    "show --resolution 8 --train_data_dir damaged --output_dir new",
    "sample --pretrained_model_name_or_path nowhere --output_dir new",
    f"sample {MODEL} --output_dir new --num_inference_steps 99",
    f"sample {MODEL} --output_dir mine --num_images 1",
    f"sample {MODEL} --output_dir new --class_labels 3",
    "evaluate --pretrained_model_name_or_path nowhere --output_dir new",
    f"evaluate {MODEL} --output_dir new",
    f"evaluate {MODEL} --train_data_dir cars --output_dir new --steps 99",
    f"calibrate {MODEL}",
    f"calibrate {MODEL} --train_data_dir empty",
    "toy-cars --output_dir mine",
    "push nowhere somebody/cars",
]


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, make_unet: Callable[..., UNet2DModel], tiny_unet_config: dict
) -> Path:
    """A folder with what the commands ask for."""
    folder = tmp_path_factory.mktemp("refused")
    write_toy_cars(folder / "cars", 12, 4, 8)
    DDPMCarsPipeline(make_unet(), DDPMCarsScheduler(num_train_timesteps=20)).save_pretrained(folder / "model")
    (folder / "unet.json").write_text(json.dumps(tiny_unet_config))
    save(folder / "mine" / "00000.png", RED)
    for name in ("empty", "damaged"):
        (folder / name).mkdir()
    (folder / "damaged" / "a.png").write_bytes(b"no image")
    (folder / "file").write_text("")
    write_toy_cars(folder / "partly", 4, 0, 8)
    (folder / "partly" / "train" / "damaged.png").write_bytes(b"no image")
    return folder


def listing(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def run(line: str, cache: Path) -> int:
    """Run a command line and return its exit code."""
    name, *arguments = line.split()
    if name in ("train", "show", "evaluate", "calibrate"):
        arguments += ["--cache_dir", str(cache)]
    try:
        COMMANDS[name](arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_accelerate: None) -> Path:
    monkeypatch.chdir(place)
    if not Path("trained").exists():
        assert run(f"{TRAIN} --train_data_dir cars --output_dir trained --max_train_steps 2", tmp_path) == 0
    return place


@pytest.mark.parametrize("line", REFUSED)
def test_a_refused_start_leaves_nothing_behind(line: str, here: Path, tmp_path: Path):
    before = listing(here)
    assert run(line, tmp_path) in (1, 2)
    assert listing(here) == before


@pytest.mark.parametrize(
    "line",
    [
        f"{TRAIN} --train_data_dir cars --output_dir new/deeper --dry_run",
        f"{TRAIN} --train_data_dir cars --output_dir trained --max_train_steps 4 --dry_run",
        "push trained somebody/cars --dry_run",
    ],
)
def test_a_dry_run_leaves_nothing_behind(line: str, here: Path, tmp_path: Path):
    before = listing(here)
    assert run(line, tmp_path) == 0
    assert listing(here) == before


@pytest.mark.parametrize(
    "line",
    [
        f"{TRAIN} --train_data_dir cars --output_dir some/run --max_train_steps 2 --num_inference_steps 2",
        f"{TRAIN} --train_data_dir partly --output_dir part --max_train_steps 2 --max_bad_images_fraction 0.9",
        f"{TRAIN} --train_data_dir cars --output_dir trained --max_train_steps 2",
        "show --resolution 8 --train_data_dir cars --output_dir some/shown",
        f"sample {MODEL} --output_dir some/sampled --num_images 2 --strip",
        "calibrate --pretrained_model_name_or_path trained --num_images 4",
        "toy-cars --output_dir some/cars --num_train_images 1 --num_test_images 1",
    ],
)
def test_paths_that_are_printed_exist(line: str, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(line, tmp_path) == 0
    printed = "".join(capsys.readouterr())
    words = {word.strip(".,:;()") for word in printed.split()}
    paths = {
        word for word in words if re.search(r"^\.?[\w-]*/|\.(png|json|yaml|html)$", word) and "images/s" not in word
    }
    assert paths
    assert [path for path in sorted(paths) if not Path(path).exists()] == []
