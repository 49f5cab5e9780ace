"""studies/equal_time.py: the noise that all recipes know, and runs of equal length, ours and stock's."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.cli.parser import Parser
from ddpm_cars.config.commands import EvaluateConfig
from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.data.pictures import load_pictures
from ddpm_cars.networks.unet import create_unet
from ddpm_cars.toy_cars.dataset import write_toy_cars
from ddpm_cars.training.validation import HeldOut
from studies import equal_time as equal_time_module

ROOT = Path(__file__).parents[2]
FIGURES = ("contrast",)  # Of 40 images there is no precision and no recall.


@pytest.fixture(scope="module")
def equal_time() -> ModuleType:
    return equal_time_module


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def held_out(_own_cache: None, twelve_and_four_cars: Path) -> HeldOut:
    """The test split at the noise levels of T = 300."""
    pictures = load_pictures(ImageConfig(train_data_dir=str(twelve_and_four_cars), split="test", resolution=8))
    return HeldOut(pictures.images, None, DDPMCarsScheduler(num_train_timesteps=300), 0)


def test_a_schedule_of_300_steps_is_measured_as_it_is(
    equal_time: ModuleType, tmp_path: Path, unet: UNet2DModel, twelve_and_four_cars: Path, held_out: HeldOut
):
    DDPMCarsPipeline(unet, DDPMCarsScheduler(num_train_timesteps=300)).save_pretrained(tmp_path / "model")
    expected = held_out.eps_mse(unet, torch.device("cpu"), 4)
    assert equal_time.common_eps_mse(tmp_path / "model", str(twelve_and_four_cars)) == pytest.approx(
        expected, rel=1e-6
    )


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_another_schedule_is_asked_between_its_timesteps(
    equal_time: ModuleType,
    tmp_path: Path,
    unet: UNet2DModel,
    twelve_and_four_cars: Path,
    held_out: HeldOut,
    prediction_type: str,
):
    scheduler = DDPMScheduler(1000, prediction_type=prediction_type)
    DDPMPipeline(unet, scheduler).save_pretrained(tmp_path / "model")
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    errors = []
    for x_t, eps, t in zip(held_out.x_t, held_out.eps, held_out.t.tolist(), strict=True):
        level = float(np.cumprod(1 - np.linspace(1e-4, 0.02, 300))[t])
        # Between the two timesteps around the level, on the line of log(alpha_bar / (1 - alpha_bar)).
        after = int((alpha_bar > level).sum())
        a, b, c = (np.log(v / (1 - v)) for v in (alpha_bar[max(after - 1, 0)], alpha_bar[after], level))
        between = after if after == 0 else after - 1 + (a - c) / (a - b)
        with torch.no_grad():
            output = unet(x_t[None], torch.tensor([between], dtype=torch.float32)).sample[0]
        if prediction_type == "v_prediction":
            output = level**0.5 * output + (1 - level) ** 0.5 * x_t
        errors.append((output - eps).square().mean().item())
    measured = equal_time.common_eps_mse(tmp_path / "model", str(twelve_and_four_cars))
    assert measured == pytest.approx(np.mean(errors), rel=1e-4)


@pytest.mark.parametrize("path", sorted((ROOT / "studies" / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_the_runs_of_a_study_can_be_trained_and_measured(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    names = [run["name"] for run in spec["runs"]]
    assert len(set(names)) == len(names)
    for run in spec["runs"]:
        argv = f"{spec['arguments']} {run.get('arguments', '')} --train_data_dir cars32".split()
        config = Parser(TrainingConfig).parse(argv)
        create_unet(config.preset, config.resolution, config.model_config)
        assert run.get("train", "-m studies.train_stock") == "-m studies.train_stock"
        assert run.get("steps_of", names[0]) in names
    if "evaluate" in spec:
        Parser(EvaluateConfig).parse(["--pretrained_model_name_or_path", "model", *spec["evaluate"].split()])


def test_time_is_what_the_log_says(equal_time: ModuleType):
    history = [{"step": 50, "images_per_second": 100.0}, {"step": 80, "images_per_second": 20.0}]
    # 50 steps of 4 at 100 a second are 2 s, 30 at 20 are 6 s.
    expected = {"steps": 80, "minutes": 8 / 60, "images_per_second": 40.0}
    assert equal_time.spent(history, 4) == pytest.approx(expected)


def test_runs_of_equal_time_and_no_work_twice(
    equal_time: ModuleType,
    tmp_path: Path,
    tiny_unet_config: dict,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    cars = write_toy_cars(tmp_path / "cars", 80, 4, 8)
    (tmp_path / "unet.json").write_text(json.dumps(tiny_unet_config))
    spec = {
        "arguments": f"--resolution 8 --model_config {tmp_path / 'unet.json'} --split train --validation_split test "
        "--train_batch_size 4 --learning_rate 0.01 --lr_scheduler constant --use_ema false --num_inference_steps 2 "
        "--checkpointing_steps null --save_images_steps null --eval_batch_size 1",
        "runs": [
            {"name": "stock", "train": "-m studies.train_stock"},
            {"name": "ours at 1e-9.0", "steps_of": "stock", "expected": "worse", "arguments": "--learning_rate 1e-9"},
        ],
    }
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "out"

    def run(*more: str, **changes: str) -> str:
        (tmp_path / "runs.yaml").write_text(yaml.safe_dump(spec | changes))
        places = f"{tmp_path / 'runs.yaml'} --train_data_dir {cars} --output_dir {folder}"
        monkeypatch.setattr("sys.argv", ["equal_time.py", *places.split(), "--minutes", "0.02", "--jobs", "2", *more])
        equal_time.main()
        return capsys.readouterr().out

    out = run()
    stock, ours = (json.loads((folder / f"{name}.json").read_text()) for name in ("stock", "ours-at-1e-9.0"))
    assert stock["steps"] == ours["steps"] == max(1, round(1.2 / stock["seconds_per_step"]))
    assert "seconds_per_step" not in ours
    assert stock["eps_mse"] < ours["eps_mse"] - 0.05
    assert type(DDPMPipeline.from_pretrained(folder / "stock").scheduler) is DDPMScheduler
    assert f"| stock |  | {stock['steps']} |" in out
    assert f"| ours at 1e-9.0 | worse | {ours['steps']} |" in out
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run() == out
    assert written == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    measure = "--extractor torch.nn:Flatten --num_images 40 --num_inference_steps 2 --num_likelihood_images 2"
    out = run("--names", "stock", evaluate=measure)
    metrics = json.loads((folder / "stock" / "evaluation" / "metrics.json").read_text())
    assert f"Fréchet distance of real images: {metrics['floor']['metrics']['frechet_distance']:.1f}" in out
    cells = [f"{bound['bpd']:.2f}" for bound in metrics["likelihood"]]
    figures = metrics["samples"][0]["metrics"]
    cells += [f"{figures['frechet_distance']:.1f} ± {figures['frechet_distance_std_error']:.1f}"]
    assert " | ".join([f"{stock['eps_mse']:.5f}", *cells, *(f"{figures[n]:.2f}" for n in FIGURES)]) in out
