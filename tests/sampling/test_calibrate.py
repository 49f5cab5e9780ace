"""ddpm-cars calibrate: a saved model is measured on its images, and samples with what was found."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import DDIMPipeline, DDIMScheduler, DiffusionPipeline, UNet2DModel
from PIL import Image

import ddpm_cars
from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.cli import commands as cli
from ddpm_cars.config.commands import CalibrateConfig, SampleConfig
from ddpm_cars.config.training import NoiseConfig, TrainingConfig
from ddpm_cars.errors import UserError
from ddpm_cars.sampling.request import class_names_of
from ddpm_cars.training.prepare import make_noise_scheduler
from tests.support.overflow import beyond_float32


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(4):
        noise = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def model(unet, tmp_path: Path) -> Path:
    DDPMCarsPipeline(unet, DDPMCarsScheduler(300)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def calibrate(model: Path, pictures: Path, tmp_path: Path, *more: str) -> None:
    cli.calibrate(
        [
            *("--pretrained_model_name_or_path", str(model), "--train_data_dir", str(pictures)),
            *("--cache_dir", str(tmp_path / "cache"), "--num_timesteps", "4", "--num_images", "3", *more),
        ]
    )


@pytest.mark.parametrize("variance_type", ["analytic", "spectral"])
def test_a_calibrated_folder_samples_with_what_was_measured(
    variance_type: str, model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    before = sorted(path.relative_to(model) for path in model.rglob("*"))
    calibrate(model, pictures, tmp_path, "--variance_type", variance_type)
    assert f"calibrated on 4 images, samples with {variance_type}" in capsys.readouterr().out
    assert sorted(path.relative_to(model) for path in model.rglob("*")) == before
    scheduler = DDPMCarsPipeline.from_pretrained(model).scheduler
    assert scheduler.config.variance_type == variance_type
    assert scheduler.config.num_train_timesteps == 300
    assert len(scheduler.config._calibration["eps_mse"]) == 4
    assert "_init_noise" not in scheduler.config
    cli.sample(
        [
            *("--pretrained_model_name_or_path", str(model), "--num_images", "2", "--num_inference_steps", "3"),
            *("--output_dir", str(tmp_path / "samples"), "--variance_type", "analytic"),
        ]
    )
    assert (tmp_path / "samples" / "00001.png").exists()


def test_a_model_of_another_sampler_keeps_it(unet: UNet2DModel, pictures: Path, tmp_path: Path, capsys):
    model = tmp_path / "ddim"
    DDIMPipeline(unet, DDIMScheduler(num_train_timesteps=300, clip_sample=False)).save_pretrained(model)
    before = json.loads((model / "scheduler" / "scheduler_config.json").read_text())
    calibrate(model, pictures, tmp_path, "--fit_init_noise")
    printed = capsys.readouterr().out
    assert "samples with DDIMScheduler" in printed
    assert "ddpm-cars sample --scheduler DDPMCarsScheduler --variance_type analytic uses what was measured" in printed
    after = json.loads((model / "scheduler" / "scheduler_config.json").read_text())
    assert {after.pop("_calibration")["num_train_timesteps"], len(after.pop("_init_noise")["mean"])} == {300, 3}
    assert after == before
    assert type(DiffusionPipeline.from_pretrained(model)) is DDIMPipeline
    with pytest.raises(SystemExit, match="2"):
        calibrate(model, pictures, tmp_path, "--variance_type", "analytic")
    assert "samples with DDIMScheduler, which has no choice of variances" in one_line(capsys)
    sampled = ("--pretrained_model_name_or_path", str(model), "--output_dir", str(tmp_path / "samples"))
    cli.sample(
        [
            *sampled,
            *("--num_images", "1", "--num_inference_steps", "3"),
            *("--scheduler", "DDPMCarsScheduler", "--variance_type", "analytic"),
        ]
    )
    assert (tmp_path / "samples" / "00000.png").exists()


def test_what_is_measured_depends_on_the_settings_that_are_given(
    unet: UNet2DModel, model: Path, pictures: Path, tmp_path: Path
):
    calibrate(model, pictures, tmp_path, "--seed", "7", "--num_bands", "3")
    found = DDPMCarsScheduler.from_pretrained(model, subfolder="scheduler").config._calibration
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted(pictures.iterdir())])
    samples, expected = torch.from_numpy(pixels / 127.5 - 1).float().permute(0, 3, 1, 2), DDPMCarsScheduler(300)
    settings = {"num_timesteps": 4, "num_images": 3, "num_bands": 3, "seed": 7}
    ddpm_cars.calibrate(unet, samples, expected, **settings, progress_bar=False)
    for name in ("eps_mse", "timesteps", "band_edges"):
        assert found[name] == pytest.approx(expected.config._calibration[name], rel=1e-4)


def test_every_picture_is_measured_with_its_own_class(unet: UNet2DModel, pictures: Path, tmp_path: Path):
    network, names = with_classes(unet, 2).eval(), {0: "left", 1: "right"}
    DDPMCarsPipeline(network, DDPMCarsScheduler(300), id2label=names).save_pretrained(tmp_path / "classed")
    for number, name in enumerate(("right", "left", "left", "right")):
        (tmp_path / "folders" / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(pictures / f"{number}.png", tmp_path / "folders" / name)
    calibrate(tmp_path / "classed", tmp_path / "folders", tmp_path)
    scheduler = DDPMCarsScheduler.from_pretrained(tmp_path / "classed", subfolder="scheduler")
    found, expected = scheduler.config._calibration["eps_mse"], DDPMCarsScheduler(300)
    pixels = np.stack([np.asarray(Image.open(pictures / f"{number}.png")) for number in (1, 2, 0, 3)])
    samples, labels = torch.from_numpy(pixels / 127.5 - 1).float().permute(0, 3, 1, 2), torch.tensor([0, 0, 1, 1])
    settings = {"num_timesteps": 4, "num_images": 3, "progress_bar": False}
    ddpm_cars.calibrate(network, samples, expected, **settings, class_labels=labels)
    assert found == pytest.approx(expected.config._calibration["eps_mse"], rel=1e-4)
    ddpm_cars.calibrate(network, samples, expected, **settings, class_labels=1 - labels)
    assert found != pytest.approx(expected.config._calibration["eps_mse"], rel=1e-3)


def test_init_noise_is_measured_when_asked_for(model: Path, pictures: Path, tmp_path: Path):
    calibrate(model, pictures, tmp_path, "--fit_init_noise", "--num_bands", "null")
    pipe = DDPMCarsPipeline.from_pretrained(model)
    assert len(pipe.scheduler.config._init_noise["mean"]) == 3
    assert "band_eps_mse" not in pipe.scheduler.config._calibration
    assert pipe.scheduler.config.variance_type == "fixed_small"
    matched = pipe(2, torch.Generator().manual_seed(0), 3, output_type="raw").images
    pipe.scheduler.register_to_config(_init_noise=None)
    assert not torch.allclose(pipe(2, torch.Generator().manual_seed(0), 3, output_type="raw").images, matched)


@pytest.mark.parametrize("data_is_given", [True, False])
def test_pictures_are_prepared_as_the_run_prepared_them(model: Path, tmp_path: Path, data_is_given: bool):
    for split, number in (("train", 3), ("test", 1)):
        (tmp_path / "wide" / split).mkdir(parents=True)
        for i in range(number):
            noise = np.random.default_rng(i + 10 * (split == "test")).integers(0, 256, (8, 24, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "wide" / split / f"{i}.png")
    run = {"train_data_dir": str(tmp_path / "wide"), "validation_split": "test", "resize": "crop"}
    (model / "config.yaml").write_text(yaml.safe_dump(run))
    flags = ["--pretrained_model_name_or_path", str(model), "--cache_dir", str(tmp_path / "cache"), "--num_timesteps"]
    flags += ["2", *(["--train_data_dir", run["train_data_dir"]] if data_is_given else [])]

    def variance(*more: str) -> float:
        cli.calibrate([*flags, *more])
        return DDPMCarsScheduler.from_pretrained(model, subfolder="scheduler").config._calibration["data_variance"]

    files = sorted((tmp_path / "wide").rglob("train/*.png"))
    cropped = np.stack([np.asarray(Image.open(file))[:, 8:16] for file in files]) / 127.5 - 1
    assert variance() == pytest.approx(cropped.var(0).mean(), rel=1e-4)
    # Averages of three pixels vary less.
    assert variance("--resize", "squash") < 0.7 * cropped.var(0).mean()


def with_classes(unet: UNet2DModel, num_classes: int) -> UNet2DModel:
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    return UNet2DModel(**{**config, "num_class_embeds": num_classes})


def test_a_model_with_classes_is_measured_with_those_of_the_folders(
    unet, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    classed = DDPMCarsPipeline(with_classes(unet, 2), DDPMCarsScheduler(300), id2label={0: "left", 1: "right"})
    classed.save_pretrained(tmp_path / "classed")
    for name, numbers in (("left", (0, 1)), ("right", (2, 3))):
        (tmp_path / "folders" / name).mkdir(parents=True)
        for number in numbers:
            shutil.copy(pictures / f"{number}.png", tmp_path / "folders" / name)
    calibrate(tmp_path / "classed", tmp_path / "folders", tmp_path)
    printed = capsys.readouterr()
    assert "calibrated on 4 images" in printed.out
    # Loading the pipeline and choosing the variance each make a scheduler that would warn.
    assert printed.err.count("noising does not end") <= 1
    (tmp_path / "folders" / "right").rename(tmp_path / "folders" / "up")
    with pytest.raises(SystemExit, match="2"):
        calibrate(tmp_path / "classed", tmp_path / "folders", tmp_path)
    assert "has the classes left, up, and the model has left, right" in one_line(capsys)
    nameless = DDPMCarsPipeline(with_classes(unet, 2), DDPMCarsScheduler(300))
    nameless.save_pretrained(tmp_path / "nameless")
    with pytest.raises(SystemExit, match="2"):
        calibrate(tmp_path / "nameless", tmp_path / "folders", tmp_path)
    assert "id2label does not name them" in one_line(capsys)


def test_names_of_many_classes_are_in_the_order_of_their_numbers(unet, tmp_path: Path):
    names = {i: f"class {11 - i}" for i in range(12)}
    DDPMCarsPipeline(with_classes(unet, 12), DDPMCarsScheduler(), id2label=names).save_pretrained(tmp_path)
    assert class_names_of(DDPMCarsPipeline.from_pretrained(tmp_path)) == tuple(names.values())


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]


def test_mistakes_are_one_line(model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        calibrate(tmp_path / "nothing", pictures, tmp_path)
    assert "nothing is not a folder with a saved pipeline" in one_line(capsys)
    with pytest.raises(SystemExit, match="2"):
        calibrate(model, tmp_path / "no-pictures", tmp_path)
    assert "no-pictures is not a folder" in one_line(capsys)
    oblong = tmp_path / "oblong"
    shutil.copytree(model, oblong)
    path = oblong / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sample_size": [8, 16]}))
    with pytest.raises(SystemExit, match="2"):
        calibrate(oblong, pictures, tmp_path)
    assert "only squares" in one_line(capsys)
    with pytest.raises(SystemExit, match="2"):
        cli.sample(["--pretrained_model_name_or_path", str(model), "--variance_type", "spectral"])
    assert re.search(
        "error: variance_type is spectral.*ddpm-cars calibrate --variance_type spectral", one_line(capsys)
    )
    calibrate(model, pictures, tmp_path, "--num_bands", "null")
    with pytest.raises(SystemExit, match="2"):
        cli.sample(["--pretrained_model_name_or_path", str(model), "--variance_type", "spectral"])
    assert re.search("error: variance_type is spectral.*ddpm-cars calibrate", one_line(capsys))
    with pytest.raises(SystemExit, match="2"):
        cli.calibrate(["--pretrained_model_name_or_path", str(model)])
    assert "has no config.yaml" in one_line(capsys)
    (model / "model_index.json").unlink()
    (model / "checkpoints").mkdir()
    with pytest.raises(SystemExit, match="2"):
        calibrate(model, pictures, tmp_path)
    assert "is a run that has not finished" in one_line(capsys)


def test_settings_that_cannot_work_are_named():
    common = {"pretrained_model_name_or_path": "model"}
    with pytest.raises(UserError, match="exactly one of train_data_dir"):
        CalibrateConfig(**common, train_data_dir="x", dataset_name="y", background="white")
    with pytest.raises(UserError, match="num_timesteps is 1"):
        CalibrateConfig(**common, train_data_dir="x", num_timesteps=1)
    with pytest.raises(UserError, match="spectral needs num_bands"):
        CalibrateConfig(**common, train_data_dir="x", variance_type="spectral", num_bands=None)
    with pytest.raises(UserError, match="variance_type is analytic and scheduler is DDIMScheduler"):
        SampleConfig(**common, scheduler="DDIMScheduler", variance_type="analytic")


def test_training_hands_every_setting_of_the_noise_to_the_scheduler():
    noise = {
        "num_train_timesteps": 77,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.001,
        "beta_end": 0.01,
        "scale_betas_for_timesteps": True,
        "rescale_betas_zero_snr": True,
    }
    assert NoiseConfig(**noise)
    config = TrainingConfig(train_data_dir="x", prediction_type="v_prediction", num_inference_steps=5, **noise)
    scheduler = make_noise_scheduler(config)
    assert {name: scheduler.config[name] for name in noise} == noise


def test_a_network_that_is_not_finite_is_not_calibrated(
    make_unet, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    # Clipping turns infinite estimates into black and white, whose error would be measured.
    DDPMCarsPipeline(beyond_float32(make_unet()), DDPMCarsScheduler(300)).save_pretrained(tmp_path / "model")
    before = (tmp_path / "model" / "scheduler" / "scheduler_config.json").read_bytes()
    with pytest.raises(SystemExit):
        calibrate(tmp_path / "model", pictures, tmp_path)
    assert "The model output is not finite at timestep 0, for 3 of 3 images: weights that" in capsys.readouterr().err
    assert (tmp_path / "model" / "scheduler" / "scheduler_config.json").read_bytes() == before


def test_an_image_size_that_the_network_cannot_take_is_refused(make_unet, pictures: Path, tmp_path: Path):
    DDPMCarsPipeline(make_unet(sample_size=9), DDPMCarsScheduler(300)).save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit) as ended:
        calibrate(tmp_path / "model", pictures, tmp_path)
    assert ended.value.code == 2
