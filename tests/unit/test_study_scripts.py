"""The arithmetic of the scripts that measure: against closed forms, and against the scheduler itself."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy.fft
import torch
from diffusers import DDIMScheduler, SchedulerMixin, UNet2DModel

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler, calibrate
from ddpm_cars.config import ImageConfig
from ddpm_cars.data import load_pictures
from ddpm_cars.features import load_extractor

from .scheduler_helpers import ALPHA_BAR, calibration_of, exact, gaussian_mse

SCRIPTS = Path(__file__).parents[2] / "scripts"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class VarianceStudy:
    """scripts/variance_study.py on an untrained model and 16 toy cars, of which 6 stand in for drawn ones."""

    def __init__(self, folder: Path, cars: Path, unet: UNet2DModel):
        self.model, self.cars, self.output, self.cache = (
            folder / "model",
            cars,
            folder / "study.json",
            folder / "cache",
        )
        pipeline = DDPMCarsPipeline(unet, DDPMCarsScheduler())
        images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        calibrate(unet, images, pipeline.scheduler, num_images=8, progress_bar=False)
        pipeline.save_pretrained(self.model)

    def run(self, *more: str) -> dict:
        settings = f"--num_images 6 --batch_size 4 --num_inference_steps 3 --output {self.output}"
        places = f"--pretrained_model_name_or_path {self.model} --train_data_dir {self.cars}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("datasets.config.HF_DATASETS_CACHE", self.cache)
            patch.setattr("sys.argv", ["variance_study.py", *settings.split(), *places.split(), *more])
            script("variance_study").main()
        return json.loads(self.output.read_text())

    def real(self) -> np.ndarray:
        config = ImageConfig(train_data_dir=str(self.cars), cache_dir=str(self.cache), resolution=8)
        return np.array(load_pictures(config).images)

    def drawn(self, scheduler: SchedulerMixin, seed: int) -> np.ndarray:
        pipeline = DDPMCarsPipeline.from_pretrained(self.model)
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
        generators = [torch.Generator().manual_seed(6 * seed + start) for start in (0, 4)]
        parts = [pipeline(n, g, 3, "pt").images for n, g in zip((4, 2), generators, strict=True)]
        return (torch.cat(parts) * 255).round().byte().permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def study(
    tmp_path_factory: pytest.TempPathFactory, twelve_and_four_cars: Path, unet: UNet2DModel
) -> tuple[VarianceStudy, dict]:
    """A study, and what it has written."""
    study = VarianceStudy(tmp_path_factory.mktemp("study"), twelve_and_four_cars, unet)
    return study, study.run("--samplers", "fixed_small", "ddim", "--seeds", "1")


def numpy_frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """For fewer vectors than features: tr (A B)^(1/2) is the sum of the singular values of the centred products."""
    x, y = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (a, b))
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.square(x).sum() + np.square(y).sum() - 2 * cross)


def dct_variance(images: np.ndarray) -> np.ndarray:
    return scipy.fft.dctn(images.mean(-1), axes=(1, 2), norm="ortho").var(0, ddof=1)


def test_the_variance_study_measures_the_pictures_that_the_pipeline_draws(study: tuple[VarianceStudy, dict]):
    study, results = study
    extractor, real = load_extractor("efficientnet-lite0"), study.real()
    assert results["extractor"] == extractor.fingerprint
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0)).numpy()
    features = extractor(real[order], progress_bar=False).double().numpy()
    assert (results["num_images"], results["num_reference_images"]) == (6, 10)
    assert results["floor"] == pytest.approx(numpy_frechet_distance(features[:6], features[6:]), rel=1e-5)
    assert [row["sampler"] for row in results["rows"]] == ["fixed_small", "ddim"]
    for row, scheduler in zip(results["rows"], (DDPMCarsScheduler, DDIMScheduler), strict=True):
        images = study.drawn(scheduler, seed=1)
        drawn = extractor(images, progress_bar=False).double().numpy()
        assert row["fd_efficientnet"] == pytest.approx(numpy_frechet_distance(drawn, features[6:]), rel=1e-5)
        assert row["std_ratio"] == pytest.approx(images.std() / real.std(), rel=1e-9)
        octaves = np.abs(np.log2(dct_variance(images) / dct_variance(real))).mean()
        assert row["spectrum_error_octaves"] == pytest.approx(octaves, rel=1e-9)


def test_the_variance_study_continues_and_does_not_mix_features(
    study: tuple[VarianceStudy, dict], capsys: pytest.CaptureFixture
):
    study, results = study
    results["rows"][0]["fd_efficientnet"] = 1.25
    study.output.write_text(json.dumps(results))
    again = study.run("--samplers", "fixed_small", "ddim", "--seeds", "1")
    assert again["rows"] == results["rows"]
    assert "| fixed_small | 1.2 / " in capsys.readouterr().out
    study.output.write_text(json.dumps({"rows": results["rows"]}))
    with pytest.raises(SystemExit, match="holds distances between other features; give another --output"):
        study.run("--seeds", "2")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_spectrum_of_the_study_is_the_variance_of_every_mode(channels: int):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, channels), dtype=np.uint8)
    np.testing.assert_allclose(script("variance_study").spectrum(images), dct_variance(images), rtol=1e-9)


def test_ideal_std_of_the_band_layouts_is_that_of_the_scheduler():
    scheduler = exact("analytic", calibration_of(gaussian_mse(0.3)))
    scheduler.set_timesteps(10)
    t, s = scheduler.timesteps[[3, 4]].tolist()
    x_0_variance = 0.3 * (1 - ALPHA_BAR[t]) / (ALPHA_BAR[t] * 0.3 + 1 - ALPHA_BAR[t])
    got = script("band_layouts").ideal_std(np.array(x_0_variance), t, s, ALPHA_BAR)
    assert float(got) == pytest.approx(scheduler._steps[t].noise_std, rel=1e-9)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the benchmark writes; its timings are for reading only."""
    path = tmp_path_factory.mktemp("benchmark") / "results.json"
    command = [sys.executable, SCRIPTS / "benchmark.py", "scheduler", "--output", path]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "| cpu | step | (16, 3, 64, 64) |" in printed
    return json.loads(path.read_text())


def test_exact_sampling_agrees_with_stock_and_orders_the_variances(benchmark: dict):
    rows = {row.pop("sampler"): row for row in map(dict, benchmark["Wasserstein-2 distance per dimension"])}
    for steps in ("10 steps", "20 steps", "50 steps"):
        distance = {name: row[steps] for name, row in rows.items()}
        for kind in ("fixed_small", "fixed_large"):
            assert distance[f"ours, {kind}"] == pytest.approx(distance[f"stock DDPM, {kind}"], abs=2e-4)
        assert distance["ours, analytic"] < min(distance["ours, fixed_small"], distance["ours, fixed_large"])
        assert distance["ours, spectral, 32 bands"] < distance["ours, spectral, 8 bands"] < distance["stock DDIM"]


def test_the_measured_start_restores_the_contrast(benchmark: dict):
    white, matched = benchmark["300 timesteps, unscaled betas"]
    assert white["std of the lightness / data"] < 0.8
    assert matched["std of the lightness / data"] >= 0.99
    assert {row["operation"] for row in benchmark["microseconds per call"]} == {"step", "add_noise"}
    assert benchmark["environment"]["diffusers"]


def test_natural_spectrum_has_the_power_it_says():
    spectrum = script("benchmark").natural_spectrum(16)
    assert spectrum.mean() == pytest.approx(0.25)
    assert np.all(np.diff(spectrum[0, 0, 1:]) < 0)
    scheduler = DDPMCarsScheduler()
    scheduler.set_calibration(script("benchmark").gaussian_calibration(spectrum))
