"""Measuring a model: against ideal denoisers, whose errors have a closed form, and real networks through files."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import scipy.fft
import torch
from diffusers import SchedulerMixin

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler, calibrate, fit_init_noise
from ddpm_cars.pipeline_ddpm_cars import noised_start
from ddpm_cars.scheduling_ddpm_cars import dct_matrix

ALPHA_BAR = np.cumprod(1 - np.linspace(0.0001, 0.02, 1000))
SIZE = (4, 6)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def synthesise(variance: np.ndarray, num_images: int, mean: float = 0.0) -> torch.Tensor:
    """Draw Gaussian images with one variance per DCT mode, (C, H, W)."""
    z = torch.randn((num_images, *variance.shape), generator=seeded(), dtype=torch.float64)
    rows, columns = (torch.from_numpy(dct_matrix(size)) for size in variance.shape[1:])
    return (mean + rows.T @ (z * torch.from_numpy(np.sqrt(variance))) @ columns).float()


def ideal(variance: np.ndarray, alpha_bar: np.ndarray = ALPHA_BAR, prediction: str = "epsilon", mean: float = 0.0):
    """Return the best possible model of those images, E[prediction | x_t], as a callable like a network."""
    rows, columns = (torch.from_numpy(dct_matrix(size)) for size in variance.shape[1:])

    def model(x_t: torch.Tensor, t: torch.Tensor) -> SimpleNamespace:
        a = float(alpha_bar[int(t[0])])
        x = x_t.double()
        shrinkage = math.sqrt(a) * torch.from_numpy(variance / (a * variance + 1 - a))
        x_0_hat = mean + rows.T @ (shrinkage * (rows @ (x - math.sqrt(a) * mean) @ columns.T)) @ columns
        eps_hat = (x - math.sqrt(a) * x_0_hat) / math.sqrt(1 - a)
        v = math.sqrt(a) * eps_hat - math.sqrt(1 - a) * x_0_hat
        return SimpleNamespace(sample={"epsilon": eps_hat, "sample": x_0_hat, "v_prediction": v}[prediction].float())

    return model


def unclipped(**config) -> DDPMCarsScheduler:
    return DDPMCarsScheduler(clip_sample=False, **config)


SPECTRUM = np.geomspace(4, 0.01, math.prod(SIZE)).reshape(1, *SIZE).repeat(3, 0)


@pytest.mark.parametrize("c", [0.05, 1.0])
def test_eps_mse_of_the_ideal_denoiser(c: float):
    variance = np.full((3, *SIZE), c)
    scheduler = unclipped()
    got = calibrate(ideal(variance), synthesise(variance, 400), scheduler, 12, 400, num_bands=4, progress_bar=False)
    a = ALPHA_BAR[got["timesteps"]]
    np.testing.assert_allclose(got["eps_mse"], a * c / (a * c + 1 - a), rtol=0.05)
    np.testing.assert_allclose(np.mean(got["band_eps_mse"], axis=(1, 2)), got["eps_mse"], rtol=0.1)
    np.testing.assert_allclose(got["band_variance"], c, rtol=0.3)
    assert scheduler.config._calibration == got
    assert got["timesteps"][0] == 0
    assert got["timesteps"][-1] == 999


def test_gamma_of_the_paper_is_one_minus_eps_mse():
    variance = np.full((1, *SIZE), 0.3)
    images, model = synthesise(variance, 2000), ideal(variance)
    got = calibrate(model, images, unclipped(), 5, 2000, batch_size=500, num_bands=None, progress_bar=False)
    for t, mse in zip(got["timesteps"], got["eps_mse"], strict=True):
        x_t = DDPMCarsScheduler().add_noise(images, torch.randn(images.shape, generator=seeded(1)), torch.tensor(t))
        gamma = float(model(x_t, torch.tensor([t])).sample.square().mean())
        assert 1 - mse == pytest.approx(gamma, abs=0.02)


def test_every_band_has_its_own_error():
    got = calibrate(ideal(SPECTRUM), synthesise(SPECTRUM, 600), unclipped(), 6, 600, num_bands=40, progress_bar=False)
    a = ALPHA_BAR[got["timesteps"]]
    dc = SPECTRUM[0, 0, 0]
    got_dc = np.array(got["band_eps_mse"])[:, :, 0].mean(1)
    np.testing.assert_allclose(got_dc, a * dc / (a * dc + 1 - a), rtol=0.1)
    np.testing.assert_allclose(np.array(got["band_variance"])[:, 0], dc, rtol=0.2)


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
def test_the_kind_of_prediction_does_not_matter(prediction: str):
    images = synthesise(SPECTRUM, 50)
    results = [
        calibrate(ideal(SPECTRUM, prediction=p), images, unclipped(prediction_type=p), 8, progress_bar=False)
        for p in ("epsilon", prediction)
    ]
    np.testing.assert_allclose(results[0]["eps_mse"], results[1]["eps_mse"], rtol=1e-3)
    np.testing.assert_allclose(results[0]["band_eps_mse"], results[1]["band_eps_mse"], rtol=1e-2)


def test_a_learned_variance_is_left_out():
    model = ideal(SPECTRUM)

    def doubled(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.cat([model(x_t, t).sample, torch.ones_like(x_t)], dim=1)

    images = synthesise(SPECTRUM, 20)
    plain = calibrate(model, images, unclipped(), 4, progress_bar=False)
    assert calibrate(doubled, images, unclipped(variance_type="learned_range"), 4, progress_bar=False) == plain


def test_clipping_is_part_of_the_error_that_sampling_meets():
    def wild(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return -x_t

    images = torch.zeros(8, 3, *SIZE)
    t, clipped, free = (
        [c["timesteps"], c["eps_mse"]] if i == 0 else c["eps_mse"]
        for i, c in enumerate(
            calibrate(wild, images, DDPMCarsScheduler(clip_sample=clip), 6, num_bands=None, progress_bar=False)
            for clip in (True, True, False)
        )
    )
    a = ALPHA_BAR[t[0]]
    assert np.all(np.array(clipped) <= np.minimum(1, a / (1 - a)) * (1 + 1e-5))
    assert free[-1] == 1 > clipped[-1]


def test_the_seed_decides_and_the_batch_size_does_not(unet):
    images = torch.rand(20, 3, 8, 8, generator=seeded()) * 2 - 1

    def measured(**options) -> list[float]:
        return calibrate(unet, images, DDPMCarsScheduler(), 3, progress_bar=False, **options)["eps_mse"]

    assert measured() == measured()
    assert measured() != measured(seed=1)
    np.testing.assert_allclose(measured(batch_size=7), measured(batch_size=20), rtol=0.3)


def test_all_timesteps_and_short_schedules():
    images = synthesise(SPECTRUM, 4)
    with_all = unclipped(num_train_timesteps=30, scale_betas_for_timesteps=True)
    model = ideal(SPECTRUM, with_all.alphas_cumprod.double().numpy())
    assert calibrate(model, images, with_all, None, progress_bar=False)["timesteps"] == list(range(30))
    assert calibrate(model, images, with_all, 100, progress_bar=False)["timesteps"] == list(range(30))
    zero_snr = unclipped(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    model = ideal(SPECTRUM, zero_snr.alphas_cumprod.double().numpy(), "v_prediction")
    # At alpha_bar = 0 the error of eps says nothing about x_0.
    assert calibrate(model, images, zero_snr, 9, progress_bar=False)["timesteps"][-1] == 998
    analytic = DDPMCarsScheduler.from_config(zero_snr.config, variance_type="analytic")
    analytic.set_timesteps(10)
    x = torch.zeros(1, 3, *SIZE)
    assert all(analytic.step(x, t, x).prev_sample.isfinite().all() for t in analytic.timesteps)


@pytest.mark.parametrize("measure", [lambda x, s: calibrate(lambda x_t, t: x_t, x, s), fit_init_noise])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 8, 8), r"shape \(3, 8, 8\)"),
        (torch.zeros(0, 3, 8, 8), "N >= 1"),
        (torch.full((2, 3, 8, 8), math.nan), "not finite"),
        (torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8), r"torch.uint8; .* images.float\(\) / 127.5 - 1"),
        (torch.arange(384.0).view(2, 3, 8, 8) % 256, r"whole numbers from 0 to 255; .* images / 127.5 - 1"),
    ],
)
def test_bad_images_are_refused(measure: Callable, images: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        measure(images, DDPMCarsScheduler())


@pytest.mark.parametrize(("scale", "shift", "looks"), [(0.5, 0.5, "[0, 1]"), (127.0, 127.3, "[0, 255]"), (1, 0, None)])
def test_images_that_look_like_another_range_are_warned_of(
    scale: float, shift: float, looks: str | None, caplog: pytest.LogCaptureFixture
):
    images = (torch.rand(4, 3, *SIZE, generator=seeded()) * 2 - 1) * scale + shift
    fit_init_noise(images, DDPMCarsScheduler())
    assert (f"images look like {looks}" in caplog.text) == (looks is not None)
    assert ("in [-1, 1]" in caplog.text) == (looks is not None)


def test_latents_are_measured_without_a_word(caplog: pytest.LogCaptureFixture):
    latents = torch.randn(20, 4, *SIZE, generator=seeded()) * 9
    assert float(latents.max()) > 20
    calibrate(lambda x_t, t: x_t, latents, unclipped(), 2, num_bands=None, progress_bar=False)
    fit_init_noise(latents, unclipped())
    assert not caplog.records


def test_arguments_of_another_kind_are_told_what_to_pass(unet):
    images, pipeline = torch.zeros(2, 3, 8, 8), DDPMCarsPipeline(unet, DDPMCarsScheduler())
    for wrong, kind in ((images.numpy(), "ndarray"), (images.tolist(), "list")):
        with pytest.raises(TypeError, match=rf"images is of type {kind}; pass a torch tensor"):
            calibrate(unet, wrong, DDPMCarsScheduler())
        with pytest.raises(TypeError, match=rf"images is of type {kind}; pass a torch tensor"):
            fit_init_noise(wrong, DDPMCarsScheduler())
    with pytest.raises(TypeError, match=r"unet is of type DDPMCarsPipeline; pass its unet"):
        calibrate(pipeline, images, DDPMCarsScheduler())
    stock = diffusers.DDPMScheduler()
    with pytest.raises(
        TypeError, match=r"of type DDPMScheduler; .* DDPMCarsScheduler.from_config\(scheduler.config\)"
    ):
        calibrate(unet, images, stock)
    with pytest.raises(TypeError, match=r"scheduler is of type DDPMCarsPipeline; pass .* pipe\.scheduler"):
        calibrate(unet, images, pipeline)
    with pytest.raises(TypeError, match=r"scheduler is of type DDPMCarsPipeline; pass .* pipe\.scheduler"):
        fit_init_noise(images, pipeline)
    fit_init_noise(images, stock)


LOW = np.full((3, *SIZE), 0.01)
LOW[:, 0, 0] = 39.0  # as of photographs of cars at 16x16


def tutorial_scheduler(**config) -> DDPMCarsScheduler:
    return unclipped(num_train_timesteps=300, **config)


def start_of(scheduler: SchedulerMixin, white: torch.Tensor) -> torch.Tensor:
    """Return what a pipeline with this scheduler makes of white noise."""
    return noised_start(white, scheduler)


def dc_std_of_samples(scheduler: DDPMCarsScheduler, white: torch.Tensor) -> float:
    """Sample with the ideal denoiser of images with variances LOW and mean 0.2; return the DC mode's std."""
    model = ideal(LOW, scheduler.alphas_cumprod.double().numpy(), mean=0.2)
    scheduler.set_timesteps(100)
    x_t, generator = start_of(scheduler, white), seeded(9)
    for t in scheduler.timesteps:
        x_t = scheduler.step(model(x_t, t[None]).sample, t, x_t, generator).prev_sample
    return float(x_t.mean((2, 3)).mul(math.sqrt(math.prod(SIZE))).std())


def test_matched_init_noise_restores_the_contrast_of_the_tutorials_schedule():
    white = torch.randn(2000, 3, *SIZE, generator=seeded(4))
    scheduler = tutorial_scheduler()
    without = dc_std_of_samples(scheduler, white) / math.sqrt(LOW[0, 0, 0])
    fit_init_noise(synthesise(LOW, 4000, mean=0.2), scheduler, num_modes=2)
    matched = dc_std_of_samples(scheduler, white) / math.sqrt(LOW[0, 0, 0])
    assert without < 0.8
    assert matched > 0.98


@pytest.mark.parametrize("n", [10, 300])
def test_init_noise_has_the_moments_of_the_noised_data(n: int):
    scheduler = tutorial_scheduler()
    images = synthesise(LOW, 5000, mean=0.2)
    fit_init_noise(images, scheduler, num_modes=2)
    scheduler.set_timesteps(n)
    white = torch.randn(20000, 3, *SIZE, generator=seeded(4))
    x_T = start_of(scheduler, white)
    alpha_bar = float(scheduler.alphas_cumprod_float64[int(scheduler.timesteps[0])])
    assert float(x_T.mean()) == pytest.approx(math.sqrt(alpha_bar) * float(images.mean()), abs=0.02)
    rows, columns = (torch.from_numpy(dct_matrix(size)).float() for size in SIZE)
    got = (rows @ x_T @ columns.T).var(0).mean(0)
    expected = alpha_bar * torch.from_numpy(LOW).mean(0) + 1 - alpha_bar
    torch.testing.assert_close(got, expected.float(), rtol=0.04, atol=0)


@pytest.mark.parametrize("num_modes", [1, 2, 4, 9])
def test_modes_of_the_init_noise_are_those_of_scipy(num_modes: int):
    images = synthesise(SPECTRUM, 300, mean=0.2)
    got = fit_init_noise(images, tutorial_scheduler(), num_modes)
    modes, m = scipy.fft.dctn(images.double().numpy(), axes=(2, 3), norm="ortho"), min(num_modes, 4)
    low = modes[:, :, :m, :m].reshape(300, -1)
    np.testing.assert_allclose(np.ravel(got["mean"]), low.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["covariance"], np.cov(low.T, bias=True), rtol=1e-4, atol=1e-5)
    rest = np.ones(SIZE, bool)
    rest[:m, :m] = False
    np.testing.assert_allclose(got["rest_variance"], modes.var(0)[:, rest].mean(), rtol=1e-4)


def test_colours_of_the_init_noise_are_correlated_as_the_data():
    grey = synthesise(LOW[:1], 3000).expand(-1, 3, -1, -1)
    scheduler = tutorial_scheduler()
    fit_init_noise(grey, scheduler)
    x_T = start_of(scheduler, torch.randn(5000, 3, *SIZE, generator=seeded(4)))
    got = torch.corrcoef(x_T.mean((2, 3)).T)
    alpha_bar = float(scheduler.alphas_cumprod_float64[-1])
    signal = alpha_bar * LOW[0, 0, 0]
    assert float(got[0, 1]) == pytest.approx(signal / (signal + 1 - alpha_bar), abs=0.04)


def test_init_noise_is_the_white_noise_where_nothing_was_measured():
    white = torch.randn(2, 3, *SIZE)
    assert torch.equal(start_of(DDPMCarsScheduler(), white), white)
    scheduler = DDPMCarsScheduler()
    fit_init_noise(synthesise(LOW, 50), scheduler)
    # With T = 1000 the forward process does end in N(0, I), and a seed keeps its image.
    torch.testing.assert_close(start_of(scheduler, white), white, atol=0.02, rtol=0.02)
    with pytest.raises(ValueError, match=r"= \(3, 4, 6\)"):
        start_of(scheduler, torch.randn(2, 3, 8, 8))
    scheduler.register_to_config(_init_noise=None)
    assert torch.equal(start_of(scheduler, white), white)


# Several of diffusers' schedulers call np.array on tensors.
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"]
)
def test_other_schedulers_start_from_the_measured_noise_too(name: str, spacing: str):
    scheduler = tutorial_scheduler()
    fit_init_noise(synthesise(LOW, 3000, mean=0.2), scheduler, num_modes=2)
    other = getattr(diffusers, name).from_config(scheduler.config, timestep_spacing=spacing)
    other.set_timesteps(10)
    white = torch.randn(20_000, 3, *SIZE, generator=seeded(4))
    # What the network sees first.
    x_T = other.scale_model_input(start_of(other, white), other.timesteps[0])
    alpha_bar = float(scheduler.alphas_cumprod_float64[int(other.timesteps[0])])
    dc = x_T.mean((2, 3)) * math.sqrt(math.prod(SIZE))
    assert float(dc.std()) == pytest.approx(math.sqrt(alpha_bar * LOW[0, 0, 0] + 1 - alpha_bar), rel=0.012)
    assert float(x_T.mean()) == pytest.approx(0.2 * math.sqrt(alpha_bar), rel=0.05)


def test_a_calibrated_pipeline_draws_the_same_in_a_fresh_process(unet, tmp_path: Path):
    images = torch.rand(20, 3, 8, 8, generator=seeded()) * 2 - 1
    scheduler = DDPMCarsScheduler(num_train_timesteps=300, variance_type="spectral")
    calibrate(unet, images, scheduler, 5, progress_bar=False)
    fit_init_noise(images, scheduler)
    pipeline = DDPMCarsPipeline(unet, scheduler)
    pipeline.save_pretrained(tmp_path / "model")
    here = pipeline(2, seeded(), 5, output_type="np").images
    script = (
        "import sys, numpy, torch, ddpm_cars\n"
        "pipe = ddpm_cars.DDPMCarsPipeline.from_pretrained(sys.argv[1])\n"
        "torch.set_num_threads(1)\n"
        "numpy.save(sys.argv[2], pipe(2, torch.Generator().manual_seed(0), 5, output_type='np').images)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "model"), str(tmp_path / "there.npy")], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "there.npy"), here)
    scheduler.register_to_config(_init_noise=None)
    assert not np.allclose(pipeline(2, seeded(), 5, output_type="np").images, here)


def test_each_image_is_measured_with_its_own_class():
    scheduler = DDPMCarsScheduler()
    alpha_bar = scheduler.alphas_cumprod
    colours = torch.tensor([-0.5, 0.0, 0.5])
    labels = torch.tensor([0, 1, 2, 0, 1, 2])

    def knowing(x_t: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        """Return the eps of an image that is all of the colour of its class."""
        x_0 = colours[class_labels].view(-1, 1, 1, 1)
        return (x_t - alpha_bar[t].sqrt().view(-1, 1, 1, 1) * x_0) / (1 - alpha_bar[t]).sqrt().view(-1, 1, 1, 1)

    images = colours[labels].view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    options = {"num_timesteps": 4, "num_images": 4, "batch_size": 3, "num_bands": None, "progress_bar": False}
    known = calibrate(knowing, images, scheduler, **options, class_labels=labels)
    assert max(known["eps_mse"]) < 1e-6
    mistaken = calibrate(knowing, images, scheduler, **options, class_labels=labels.roll(1))
    assert max(mistaken["eps_mse"]) > 0.01
    with pytest.raises(ValueError, match="class_labels has 5 values for 6 images"):
        calibrate(knowing, images, scheduler, **options, class_labels=labels[:5])
