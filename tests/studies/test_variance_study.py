"""The study of variances: its figures are those of the images that the pipeline draws, and it continues."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import torch
from diffusers import DDIMScheduler, SchedulerMixin, UNet2DModel

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler, calibrate
from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.data.pictures import load_pictures
from ddpm_cars.evaluation.features import load_extractor
from studies import variance_study


class VarianceStudy:
    """studies/variance_study.py on an untrained model and 16 toy cars, of which 6 stand in for drawn ones."""

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
            variance_study.main()
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
    np.testing.assert_allclose(variance_study.spectrum(images), dct_variance(images), rtol=1e-9)
