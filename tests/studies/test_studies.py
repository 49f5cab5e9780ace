"""The arithmetic of the scripts that measure: against closed forms, and against the scheduler itself."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import torch
from benchmarks import __main__ as benchmarks_main
from benchmarks import measure, stock_loops
from benchmarks import sample as sample_suite
from benchmarks import scheduler as scheduler_suite
from benchmarks import startup as startup_suite
from benchmarks import train as train_suite
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, SchedulerMixin, UNet2DModel
from diffusers.models.attention_processor import Attention
from PIL import Image
from torch.nn import functional

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler, calibrate
from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.data.pictures import load_pictures
from ddpm_cars.evaluation.features import load_extractor
from ddpm_cars.networks.unet import create_unet
from studies import band_layouts, variance_study
from tests.support.scheduler_helpers import ALPHA_BAR, calibration_of, exact, gaussian_mse

ROOT = Path(__file__).parents[2]


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


def test_ideal_std_of_the_band_layouts_is_that_of_the_scheduler():
    scheduler = exact("analytic", calibration_of(gaussian_mse(0.3)))
    scheduler.set_timesteps(10)
    t, s = scheduler.timesteps[[3, 4]].tolist()
    x_0_variance = 0.3 * (1 - ALPHA_BAR[t]) / (ALPHA_BAR[t] * 0.3 + 1 - ALPHA_BAR[t])
    got = band_layouts.ideal_std(np.array(x_0_variance), t, s, ALPHA_BAR)
    assert float(got) == pytest.approx(scheduler._steps[t].noise_std, rel=1e-9)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the benchmark writes; its timings are for reading only."""
    folder = tmp_path_factory.mktemp("benchmark")
    command = [sys.executable, "-m", "benchmarks", "scheduler", "--repeats", "1", "--output_dir", folder]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "| cpu | step | (16, 3, 64, 64) |" in printed
    assert printed.startswith((folder / "benchmark_scheduler.md").read_text())
    return json.loads((folder / "benchmark_scheduler.json").read_text())


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
    spectrum = scheduler_suite.natural_spectrum(16)
    assert spectrum.mean() == pytest.approx(0.25)
    assert np.all(np.diff(spectrum[0, 0, 1:]) < 0)
    scheduler = DDPMCarsScheduler()
    scheduler.set_calibration(scheduler_suite.gaussian_calibration(spectrum))


def run_benchmark(suite: str, folder: Path, options: str) -> dict:
    """Run a suite once, in this process, and return what it writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", f"benchmark.py {suite} --repeats 1 --output_dir {folder} {options}".split())
        benchmarks_main.main()
    return json.loads((folder / f"benchmark_{suite}.json").read_text())


def test_the_benchmark_measures_alternately_and_compares_within_rounds():
    calls: list[str] = []
    figures = {"stock": iter([2.0, 9.0, 4.0]), "ours": iter([1.0, 3.0, 4.0])}

    def figure(name: str) -> float:
        calls.append(name)
        return next(figures[name])

    measured = measure.alternate({name: partial(figure, name) for name in figures}, 3, "measuring")
    assert calls == ["stock", "ours"] * 3
    assert measured == {"stock": [2, 9, 4], "ours": [1, 3, 4]}
    assert measure.ratio(measured["stock"], measured["ours"]) == {"median": 2, "min": 1, "max": 3}
    rows = [{"a": "x", "b": measure.spread([3, 1.004, 2])}, {"a": "y", "c": 1}]
    assert measure.table(rows).splitlines()[2:] == ["| x | 2 (1.0..3) |  |", "| y |  | 1 |"]


@pytest.mark.parametrize("size", [(50, 37), (37, 50)])
def test_the_benchmark_gives_stock_the_pictures_of_its_example(size: tuple[int, int]):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    whole = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    # 50 : 37 = 21.6 : 16, of which torchvision keeps the integer part.
    long_side = {50: 21, 37: 16}
    shape = [long_side[side] for side in size[::-1]]
    small = functional.interpolate(whole, shape, mode="bilinear", antialias=True)[0] / 127.5 - 1
    # (21 - 16) / 2 = 2.5, rounded to the even neighbour.
    top, left = (2 if side == 21 else 0 for side in shape)
    square = small[:, top : top + 16, left : left + 16]
    torch.manual_seed(0)
    mirrored = []
    for _ in range(20):
        got = stock_loops.stock_picture(Image.fromarray(pixels), 16)
        assert (got.dtype, got.shape) == (torch.float32, (3, 16, 16))
        mirrored.append(bool((got - square.flip(-1)).abs().max() < 2 / 127.5))
        assert mirrored[-1] or (got - square).abs().max() < 2 / 127.5
    assert 4 <= sum(mirrored) <= 16


def clipped_adamw(unet: UNet2DModel, batches: list[tuple], rates: list[float]) -> list[float]:
    """AdamW of Loshchilov & Hutter 2019 with the betas of the example; return the losses."""
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    moments, losses = [[torch.zeros_like(p), torch.zeros_like(p)] for p in unet.parameters()], []
    for i, ((x_0, eps, t), rate) in enumerate(zip(batches, rates, strict=True), start=1):
        a = alpha_bar[t].float().view(-1, 1, 1, 1)
        loss = (unet(a.sqrt() * x_0 + (1 - a).sqrt() * eps, t).sample - eps).square().mean()
        grads = torch.autograd.grad(loss, list(unet.parameters()))
        norm = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
        losses.append(loss.item())
        with torch.no_grad():
            for p, g, (m, v) in zip(unet.parameters(), grads, moments, strict=True):
                g = g / norm.clamp(min=1)
                m.mul_(0.95).add_(0.05 * g)
                v.mul_(0.999).add_(0.001 * g.square())
                p.mul_(1 - rate * 1e-6)
                p.sub_(rate * m / (1 - 0.95**i) / ((v / (1 - 0.999**i)).sqrt() + 1e-8))
    return losses


@pytest.fixture
def benchmark_config(tmp_path: Path, fresh_accelerate: None) -> TrainingConfig:
    """The settings of the suite `train` on eight JPEGs at 8x8, with a learning rate that moves at once."""
    suite = train_suite
    suite.write_jpegs(tmp_path / "cars", 8)
    parser = argparse.ArgumentParser()
    suite.add_arguments(parser)
    arguments = parser.parse_args("--resolution 8 --train_batch_size 2 --preset tiny --mixed_precision no".split())
    return replace(suite.make_config(arguments, tmp_path), lr_warmup_steps=2, max_train_steps=10)


def test_the_stock_loop_of_the_benchmark_trains_as_documented(benchmark_config: TrainingConfig):
    stock = stock_loops.StockTraining(benchmark_config)
    torch.manual_seed(benchmark_config.seed)
    unet = create_unet("tiny", 8).train()
    x_0 = torch.rand(3, 2, 3, 8, 8) * 2 - 1
    torch.manual_seed(1)
    batches = [(x, torch.randn(x.shape), torch.randint(1000, (2,))) for x in x_0]
    torch.manual_seed(1)
    losses = [stock.step(x) for x in x_0]
    # Two steps of warmup; the third is the first of a cosine.
    assert losses == pytest.approx(clipped_adamw(unet, batches, [0.0, 5e-5, 1e-4]), rel=1e-4)
    for ours, stocks in zip(unet.parameters(), stock.model.parameters(), strict=True):
        torch.testing.assert_close(stocks, ours, rtol=0, atol=2e-6)
    assert stock.average.decay**7000 == pytest.approx(0.5)
    before = [shadow.clone() for shadow in stock.average.shadow_params]
    stock.epoch()
    assert (stock.num_images, stock.average.optimization_step) == (8, 7)
    assert any(not torch.equal(a, b) for a, b in zip(before, stock.average.shadow_params, strict=True))


def multiply_adds(unet: UNet2DModel) -> int:
    """Count those of the layers with weights in a forward pass of one image; "tiny" has attention in its middle."""
    total = 0

    def count(layer: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, Attention):
            n, width = inputs[0].shape[-2] * inputs[0].shape[-1], layer.inner_dim
            total += 2 * n * n * width
        else:
            total += output.numel() * layer.weight[0].numel()

    for layer in unet.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear | Attention):
            layer.register_forward_hook(count)
    unet(torch.zeros(1, 3, 8, 8), 0)
    return total


def test_the_train_suite(tmp_path: Path, fresh_accelerate: None):
    options = "--num_images 8 --train_batch_size 4 --resolution 8 --preset tiny --mixed_precision no"
    results = run_benchmark("train", tmp_path, f"{options} --num_compared_steps 4 --peak_tflops 0.2")
    assert results["settings of all loops"][0]["pictures"] == 8
    rows = {row["loop"]: row for row in results["training"]}
    assert list(rows)[:2] == ["stock, from files", "ours, from files"]
    assert "stock, the step alone" in rows
    assert "ours, the step alone" in rows
    row = rows["ours, from files"]
    stock = rows["stock, from files"]["images/s"]["median"]
    assert row["to stock"]["median"] == pytest.approx(row["images/s"]["median"] / stock, abs=0.02)
    flops = 3 * 2 * multiply_adds(create_unet("tiny", 8))
    used = row["model FLOP utilisation"]["median"] * 0.2e12
    assert used == pytest.approx(flops * row["images/s"]["median"], rel=0.02)
    assert len(results["images of one epoch"]) == 3
    (numerics,) = results["the same steps in two ways"]
    assert numerics["plain float32 loop"] < numerics["held-out loss before"] - 0.01
    assert abs(numerics["difference in percent"]) < 1e-3


def test_the_train_suite_sees_steps_that_are_others(benchmark_config: TrainingConfig):
    (row,) = train_suite.numeric_rows(replace(benchmark_config, snr_gamma=0.01), 4)
    assert row["difference in percent"] == pytest.approx(100 * (row["ours"] / row["plain float32 loop"] - 1), rel=0.01)
    assert abs(row["difference in percent"]) > 0.1


def test_the_flops_of_the_train_suite_are_those_of_its_layers():
    unet = create_unet("tiny", 8)
    assert train_suite.forward_flops(unet) == pytest.approx(2 * multiply_adds(unet), rel=1e-6)


def test_the_sample_suite(tmp_path: Path, make_unet: Callable[..., UNet2DModel]):
    options = "--fast_dtypes --preset tiny --resolution 8 --steps 3 --batch_sizes 1 2"
    rows = run_benchmark("sample", tmp_path, options)["sampling"]
    pipelines = ("stock", "ours", "ours, as scripts/sample.py places it")
    assert [(row["batch"], row["pipeline"]) for row in rows] == [(b, p) for b in (1, 2) for p in pipelines]
    assert not any(row["compiled"] or row["captured"] for row in rows)
    difference = "largest difference to stock in grey levels"
    assert all(row[difference] < 0.01 for row in rows)
    suite = sample_suite
    pipelines = {"stock": DDPMPipeline(make_unet(), DDPMScheduler())}
    pipelines["another"] = DDPMCarsPipeline(make_unet(seed=1), DDPMCarsScheduler())
    arguments = argparse.Namespace(steps=3, repeats=1)
    _, row = suite.rows_of_batch(pipelines, 2, arguments, torch.device("cpu"))
    images = [p(2, torch.Generator().manual_seed(0), 3, output_type="np").images for p in pipelines.values()]
    assert row[difference] == pytest.approx(255 * np.abs(images[0] - images[1]).max(), rel=0.01)
    assert row[difference] > 1
    seconds_per_image = 3 * row["ms a step"]["median"] / 1000 / 2
    assert row["images/s"]["median"] == pytest.approx(1 / seconds_per_image, rel=0.01)


def test_the_startup_suite_compares_within_rounds(monkeypatch: pytest.MonkeyPatch):
    suite = startup_suite
    # Other imports, to be quick.
    monkeypatch.setattr(suite, "STOCK_IMPORT", "import json")
    monkeypatch.setattr(suite, "OUR_IMPORT", "import wave")
    codes = [row["code"].split(":")[0] for row in suite.import_rows(1)]
    assert codes == ["stock", "ours", "ours, in a process that has imported stock"]
    stock, ours = suite.rows_of_times({"a": [1.0, 2.0, 4.0], "b": [1.5, 2.25, 3.0]}, "a")
    assert stock["seconds beyond stock"] == {"median": 0, "min": 0, "max": 0}
    assert ours["seconds beyond stock"] == {"median": 0.25, "min": -1, "max": 0.5}
    assert ours["to stock"] == {"median": 1.125, "min": 0.75, "max": 1.5}


def test_code_of_the_startup_suite_is_timed_in_a_process_of_its_own():
    seconds_of_code = startup_suite.seconds_of_code
    assert seconds_of_code("import sys, time; assert 'torch' not in sys.modules; time.sleep(x)", "x = 0.2") >= 0.2
    with pytest.raises(subprocess.CalledProcessError):
        seconds_of_code("raise SystemExit(1)")


def test_both_first_images_of_the_startup_suite_are_of_the_same_network(tmp_path: Path):
    images = []
    codes = startup_suite.first_images(tmp_path, 2)
    for (name, code), pipeline in zip(codes.items(), (DDPMPipeline, DDPMCarsPipeline), strict=True):
        names: dict = {}
        torch.manual_seed(0)
        exec(code, names)
        assert name.endswith(pipeline.__name__)
        assert type(names["pipeline"]) is pipeline
        assert len(names["pipeline"].scheduler.timesteps) == 2
        images.append(np.asarray(names["image"]).astype(int))
    assert np.abs(images[0] - images[1]).max() <= 1
    assert images[0].std() > 10
