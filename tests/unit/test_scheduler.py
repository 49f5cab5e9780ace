"""What diffusers' DDPMScheduler lacks or gets wrong, and the closed forms of the diffusion process in float64."""

import copy
import itertools
import json
import math
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, SchedulerMixin
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers

from ddpm_cars import DDPMCarsScheduler

SPACINGS = ["leading", "linspace", "trailing"]
VARIANCES = ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"]
LEARNED = ("learned", "learned_range")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def model_output_for(variance_type: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    mean = randn(*shape, seed=1, dtype=dtype)
    if variance_type not in LEARNED:
        return mean
    return torch.cat([mean, torch.rand(shape, generator=seeded(2)).to(dtype)], dim=1)


def alpha_bars(T: int = 1000) -> np.ndarray:
    return np.cumprod(1 - np.linspace(0.0001, 0.02, T))


def chain(scheduler: DDPMCarsScheduler) -> list[tuple[int, int]]:
    """List the pairs (t, s) that sampling visits; the last s is -1."""
    return list(itertools.pairwise([*scheduler.timesteps.tolist(), -1]))


def noise_std(scheduler: DDPMCarsScheduler, t: int) -> float:
    """Read sigma_t off a step from zeros, which leaves sigma_t times the noise."""
    zeros = torch.zeros(1, 1, 1, dtype=torch.float64)
    drawn = scheduler.step(zeros, t, zeros, generator=seeded(5)).prev_sample
    return float(drawn / torch.randn(1, 1, 1, generator=seeded(5), dtype=torch.float64))


def mean_of_step(scheduler: DDPMCarsScheduler, model_output: float, t: int, x_t: float) -> float:
    inputs = [torch.full((1, 1, 1), value, dtype=torch.float64) for value in (model_output, x_t)]
    drawn = scheduler.step(inputs[0], t, inputs[1], generator=seeded(5)).prev_sample
    return float(drawn) - noise_std(scheduler, t) * float(
        torch.randn(1, 1, 1, generator=seeded(5), dtype=torch.float64)
    )


@pytest.mark.parametrize("offset", [0, 1, 7])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("variance_type", VARIANCES)
def test_last_step_adds_no_noise(variance_type: str, spacing: str, offset: int):
    scheduler = DDPMCarsScheduler(variance_type=variance_type, timestep_spacing=spacing, steps_offset=offset)
    model_output, x_t = model_output_for(variance_type, (2, 3, 4, 4)), randn(2, 3, 4, 4)
    for n in (1, 7, 50, 1000):
        scheduler.set_timesteps(n)
        last = scheduler.timesteps[-1]
        a, b = (scheduler.step(model_output, last, x_t, generator=seeded(seed)) for seed in (1, 2))
        assert torch.equal(a.prev_sample, b.prev_sample)
        # With no x_s left to reach, the mean of eq. 7 is x_0_hat itself.
        torch.testing.assert_close(a.prev_sample, a.pred_original_sample, rtol=0, atol=1e-6)
        if n > 1:
            first = scheduler.timesteps[0]
            a, b = (scheduler.step(model_output, first, x_t, generator=seeded(seed)) for seed in (1, 2))
            assert not torch.allclose(a.prev_sample, b.prev_sample)


def test_fixed_large_log_equals_fixed_large():
    log, plain = DDPMCarsScheduler(variance_type="fixed_large_log"), DDPMCarsScheduler(variance_type="fixed_large")
    for n in (20, 1000):
        log.set_timesteps(n)
        plain.set_timesteps(n)
        for t in log.timesteps[[0, n // 2, -2, -1]]:
            inputs = randn(2, 3, 4, 4, seed=1), t, randn(2, 3, 4, 4)
            got = log.step(*inputs, generator=seeded(0)).prev_sample
            assert got.isfinite().all()
            assert torch.equal(got, plain.step(*inputs, generator=seeded(0)).prev_sample)
            assert torch.equal(log._get_variance(t), plain._get_variance(t))


@pytest.mark.parametrize("T", [1, 2, 20, 300, 1000])
def test_trailing_gives_n_descending_timesteps_in_range(T: int):
    scheduler = DDPMCarsScheduler(num_train_timesteps=T, timestep_spacing="trailing")
    for n in range(1, T + 1):
        chosen = scheduler._spaced_timesteps(n)
        assert len(chosen) == n
        assert np.issubdtype(chosen.dtype, np.integer)
        assert np.all(np.diff(chosen) < 0)
        assert chosen[0] == T - 1
        assert chosen[-1] >= 0
        exact = [T - k * T / n - 1 for k in range(n)]
        assert np.abs(chosen - exact).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(("T", "n", "offset"), [(1000, 1000, 1), (1000, 999, 5), (20, 20, 3), (20, 19, 1), (1, 1, 1)])
def test_leading_with_an_offset_stays_in_range(T: int, n: int, offset: int):
    scheduler = DDPMCarsScheduler(num_train_timesteps=T, steps_offset=offset)
    scheduler.set_timesteps(n)
    assert len(scheduler.timesteps) == n
    assert scheduler.timesteps[0] <= T - 1
    assert scheduler.timesteps[-1] >= 0
    assert (scheduler.timesteps.diff() < 0).all()
    x = randn(1, 3, 4, 4)
    assert scheduler.step(x, scheduler.timesteps[0], x).prev_sample.isfinite().all()


def half_ulp(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    info = torch.finfo(dtype)
    magnitude = exact.abs().clamp(min=info.smallest_normal)
    return torch.exp2(magnitude.log2().floor()) * info.eps / 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["add_noise", "get_velocity"])
def test_forward_process_in_half_precision_rounds_once(method: str, dtype: torch.dtype):
    scheduler = DDPMCarsScheduler()
    t = torch.arange(0, 1000, 25)
    x_0, eps = (randn(len(t), 3, 8, 8, seed=seed, dtype=dtype) for seed in range(2))
    got = getattr(scheduler, method)(x_0, eps, t)
    assert got.dtype == dtype

    a, b = (torch.from_numpy(np.sqrt(f)).view(-1, 1, 1, 1) for f in (alpha_bars()[t], 1 - alpha_bars()[t]))
    signal, noise = (a * x_0.double(), b * eps.double())
    if method == "get_velocity":
        signal, noise = -b * x_0.double(), a * eps.double()
    exact = signal + noise
    float32_mixing = 2.0**-22 * (signal.abs() + noise.abs())
    assert ((got.double() - exact).abs() <= half_ulp(exact, dtype) + float32_mixing).all()
    assert (got == exact.to(dtype)).double().mean() > 0.995


@pytest.mark.parametrize("method", ["add_noise", "get_velocity"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_forward_process_keeps_dtype_and_memory_format(method: str, dtype: torch.dtype):
    x_0, eps = (randn(2, 3, 4, 4, seed=s, dtype=dtype).to(memory_format=torch.channels_last) for s in range(2))
    got = getattr(DDPMCarsScheduler(), method)(x_0, eps, torch.tensor([3, 900]))
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert not got.is_contiguous()


def test_forward_process_does_not_change_its_inputs():
    scheduler = DDPMCarsScheduler()
    x_0, eps, t = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1), torch.tensor([3, 900])
    copies = [x_0.clone(), eps.clone(), t.clone()]
    for method in (scheduler.add_noise, scheduler.get_velocity):
        method(x_0, eps, t)
    assert all(torch.equal(a, b) for a, b in zip((x_0, eps, t), copies, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("variance_type", VARIANCES)
def test_step_in_half_precision_mixes_in_float32(variance_type: str, prediction_type: str, dtype: torch.dtype):
    scheduler = DDPMCarsScheduler(
        variance_type=variance_type, prediction_type=prediction_type, clip_sample=True, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(10)
    model_output, x_t = model_output_for(variance_type, (2, 3, 8, 8), dtype), randn(2, 3, 8, 8, dtype=dtype)
    for t in scheduler.timesteps.tolist():
        got = scheduler.step(model_output, t, x_t, generator=seeded(0))
        assert got.prev_sample.dtype == got.pred_original_sample.dtype == dtype
        noise = torch.randn(x_t.shape, generator=seeded(0), dtype=dtype).double()
        # The float64 step draws other noise from the same seed, so its own is taken off and the drawn one put on.
        exact = scheduler.step(model_output.double(), t, x_t.double(), generator=seeded(0)).prev_sample
        if t != scheduler.timesteps[-1]:
            std = scheduler.step(
                torch.zeros_like(model_output).double()
                if variance_type not in LEARNED
                else torch.cat([torch.zeros_like(x_t), model_output[:, 3:]], dim=1).double(),
                t,
                torch.zeros_like(x_t).double(),
                generator=seeded(0),
            ).prev_sample / torch.randn(x_t.shape, generator=seeded(0), dtype=torch.float64)
            exact = exact + std * (noise - torch.randn(x_t.shape, generator=seeded(0), dtype=torch.float64))
        error = (got.prev_sample.double() - exact).abs()
        assert (error <= half_ulp(exact, dtype) + 3e-6).all(), t


def test_step_returns_the_wider_dtype():
    scheduler = DDPMCarsScheduler()
    got = scheduler.step(randn(1, 3, 4, 4, dtype=torch.bfloat16), 500, randn(1, 3, 4, 4))
    assert got.prev_sample.dtype == torch.float32


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("variance_type", VARIANCES)
def test_per_sample_timesteps_equal_steps_one_by_one(variance_type: str, prediction_type: str):
    scheduler = DDPMCarsScheduler(variance_type=variance_type, prediction_type=prediction_type)
    scheduler.set_timesteps(20)
    t = scheduler.timesteps[[0, 5, 10, 18, 19]]
    for dtype, tolerance in ((torch.float32, 2e-5), (torch.float64, 1e-12)):
        model_output = model_output_for(variance_type, (5, 3, 4, 4), dtype)
        x_t = randn(5, 3, 4, 4, dtype=dtype)
        got = scheduler.step(model_output, t, x_t, generator=[seeded(i) for i in range(5)])
        for i in range(5):
            alone = scheduler.step(model_output[i : i + 1], int(t[i]), x_t[i : i + 1], generator=seeded(i))
            for name in ("prev_sample", "pred_original_sample"):
                torch.testing.assert_close(got[name][i : i + 1], alone[name], rtol=tolerance, atol=tolerance)


def test_assigned_timesteps_are_honoured():
    assigned, chosen = DDPMCarsScheduler(), DDPMCarsScheduler()
    assigned.set_timesteps(10)
    assigned.timesteps = torch.tensor([800, 300, 2])
    chosen.set_timesteps(timesteps=[800, 300, 2])
    inputs = randn(2, 3, 4, 4, seed=1), randn(2, 3, 4, 4)
    for t in (800, 300, 2):
        got = assigned.step(inputs[0], t, inputs[1], generator=seeded(0)).prev_sample
        assert torch.equal(got, chosen.step(inputs[0], t, inputs[1], generator=seeded(0)).prev_sample)
    with pytest.raises(ValueError, match="900"):
        assigned.step(inputs[0], 900, inputs[1])


@pytest.mark.parametrize("n", [None, 10])
def test_deep_copies_are_equal_and_independent(n: int | None):
    scheduler = DDPMCarsScheduler(variance_type="fixed_large")
    if n is not None:
        scheduler.set_timesteps(n)
    inputs = randn(2, 3, 4, 4, seed=1), int(scheduler.timesteps[3]), randn(2, 3, 4, 4)
    expected = scheduler.step(*inputs, generator=seeded(0)).prev_sample
    duplicate = copy.deepcopy(scheduler)
    assert torch.equal(duplicate.step(*inputs, generator=seeded(0)).prev_sample, expected)
    duplicate.set_timesteps(timesteps=[5, 3])
    assert torch.equal(scheduler.step(*inputs, generator=seeded(0)).prev_sample, expected)
    assert dict(duplicate.config) == dict(scheduler.config)


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("timestep", [5, -1, -100, 1000, 901])
def test_unknown_timesteps_raise(timestep: int, as_tensor: bool):
    scheduler = DDPMCarsScheduler()
    scheduler.set_timesteps(10)
    t = torch.tensor(timestep) if as_tensor else timestep
    x = randn(1, 3, 4, 4)
    for use in (lambda: scheduler.step(x, t, x), lambda: scheduler.previous_timestep(t)):
        with pytest.raises(ValueError, match=rf"{timestep}.* is not one of the 10 .*900 \.\.\. 0.*set_timesteps"):
            use()


def test_a_fractional_timestep_raises():
    x = randn(1, 3, 4, 4)
    with pytest.raises(ValueError, match=r"500\.7"):
        DDPMCarsScheduler().step(x, 500.7, x)


@pytest.mark.parametrize("timesteps", [[900, 5], [-1, 0], [1000, 0]])
def test_unknown_per_sample_timesteps_raise(timesteps: list[int]):
    scheduler = DDPMCarsScheduler()
    scheduler.set_timesteps(10)
    x = randn(2, 3, 4, 4)
    with pytest.raises(ValueError, match="not one of the 10"):
        scheduler.step(x, torch.tensor(timesteps), x)
    with pytest.raises(ValueError, match="not one of the 10"):
        scheduler.previous_timestep(torch.tensor(timesteps))


@pytest.mark.parametrize("n", [0, -1, 1001])
def test_numbers_of_steps_out_of_range_raise(n: int):
    with pytest.raises(ValueError, match=rf"`num_inference_steps` is {n}; it must be from 1 to 1000"):
        DDPMCarsScheduler().set_timesteps(n)


def test_exactly_one_of_number_and_timesteps_is_needed():
    for arguments in ({}, {"num_inference_steps": 2, "timesteps": [5, 3]}):
        with pytest.raises(ValueError, match="exactly one of `num_inference_steps` and `timesteps`"):
            DDPMCarsScheduler().set_timesteps(**arguments)


@pytest.mark.parametrize(
    ("timesteps", "message"),
    [
        ([1, 2, 3], "descending"),
        ([5, 5], "descending"),
        ([], "descending"),
        ([1000, 3], "must start before"),
        ([3, -1], "end at 0 or later"),
    ],
)
def test_bad_custom_timesteps_raise(timesteps: list[int], message: str):
    scheduler = DDPMCarsScheduler()
    with pytest.raises(ValueError, match=message):
        scheduler.set_timesteps(timesteps=timesteps)
    assert len(scheduler.timesteps) == 1000


def test_unknown_spacing_raises():
    with pytest.raises(ValueError, match=r"karras.*leading"):
        DDPMCarsScheduler(timestep_spacing="karras").set_timesteps(10)


def test_unknown_prediction_type_raises():
    x = randn(1, 3, 4, 4)
    with pytest.raises(ValueError, match=r"flow.*v_prediction"):
        DDPMCarsScheduler(prediction_type="flow").step(x, 5, x)


@pytest.mark.parametrize("variance_type", LEARNED)
@pytest.mark.parametrize("channels", [3, 4, 12])
def test_learned_variance_needs_twice_the_channels(variance_type: str, channels: int):
    scheduler = DDPMCarsScheduler(variance_type=variance_type)
    with pytest.raises(ValueError, match=rf"needs a model output of 6 channels.*it has {channels}"):
        scheduler.step(randn(1, channels, 4, 4), 5, randn(1, 3, 4, 4))


@pytest.mark.parametrize("channels", [1, 3])
def test_fixed_variance_needs_the_channels_of_the_sample(channels: int):
    with pytest.raises(ValueError, match="channels"):
        DDPMCarsScheduler().step(randn(1, 2 * channels, 4, 4), 5, randn(1, channels, 4, 4))


def test_unknown_variance_type_warns_and_acts_as_fixed_small(caplog: pytest.LogCaptureFixture):
    unknown = DDPMCarsScheduler(variance_type="tiny")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "'tiny'" in caplog.text
    assert "fixed_small" in caplog.text
    assert caplog.records[0].name == "ddpm_cars.scheduling_ddpm_cars"
    inputs = randn(1, 3, 4, 4, seed=1), 500, randn(1, 3, 4, 4)
    got = unknown.step(*inputs, generator=seeded(0)).prev_sample
    assert torch.equal(got, DDPMCarsScheduler().step(*inputs, generator=seeded(0)).prev_sample)


@pytest.mark.parametrize("variance_type", VARIANCES)
def test_known_variance_types_do_not_warn(variance_type: str, caplog: pytest.LogCaptureFixture):
    DDPMCarsScheduler(variance_type=variance_type)
    assert not caplog.records


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "sigmoid"])
def test_beta_end_above_1_neither_raises_nor_warns(schedule: str, recwarn: pytest.WarningsRecorder):
    scheduler = DDPMCarsScheduler(beta_end=2, beta_schedule=schedule)
    scheduler.set_timesteps(10)
    assert scheduler.betas[-1] == pytest.approx(2, rel=0.01)
    assert not recwarn.list


def test_zero_terminal_snr_starts_from_pure_noise():
    scheduler = DDPMCarsScheduler(rescale_betas_zero_snr=True)
    x_0, eps = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1)
    t = torch.tensor([999, 999])
    assert torch.equal(scheduler.add_noise(x_0, eps, t), eps)
    assert torch.equal(scheduler.get_velocity(x_0, eps, t), -x_0)


@pytest.mark.parametrize("variance_type", ["fixed_large", "learned_range"])
def test_step_compiles_once_for_all_timesteps(variance_type: str):
    torch._dynamo.reset()
    scheduler = DDPMCarsScheduler(variance_type=variance_type)
    scheduler.set_timesteps(10)
    model_output, x_t = model_output_for(variance_type, (2, 3, 4, 4)), randn(2, 3, 4, 4)

    def step(model_output: torch.Tensor, t: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
        return scheduler.step(model_output, t, x_t, return_dict=False)[0]

    compiled = torch.compile(step, fullgraph=True, backend="eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for t in scheduler.timesteps:
            torch.manual_seed(0)
            expected = step(model_output, t, x_t)
            torch.manual_seed(0)
            torch.testing.assert_close(compiled(model_output, t, x_t), expected, rtol=2e-6, atol=2e-6)


def test_add_noise_compiles_once_for_all_timesteps():
    torch._dynamo.reset()
    scheduler = DDPMCarsScheduler()
    x_0, eps = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1)
    compiled = torch.compile(scheduler.add_noise, fullgraph=True, backend="eager")
    expected = [scheduler.add_noise(x_0, eps, torch.tensor(t)) for t in ([0, 1], [500, 3], [998, 999])]
    with torch._dynamo.config.patch(error_on_recompile=True):
        got = [compiled(x_0, eps, torch.tensor(t)) for t in ([0, 1], [500, 3], [998, 999])]
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_300_training_timesteps():
    scheduler = DDPMCarsScheduler(num_train_timesteps=300)
    assert len(scheduler) == len(scheduler.betas) == 300
    assert scheduler.timesteps.tolist() == list(range(299, -1, -1))
    torch.testing.assert_close(scheduler.alphas_cumprod.double().numpy(), alpha_bars(300), rtol=1e-7, atol=0)
    x = randn(1, 3, 4, 4)
    for t in (299, 150, 0):
        assert scheduler.step(x, t, x).prev_sample.isfinite().all()
    with pytest.raises(ValueError, match="300"):
        scheduler.step(x, 300, x)
    scheduler.set_timesteps(300)
    assert scheduler.timesteps.tolist() == list(range(299, -1, -1))
    with pytest.raises(ValueError, match="300"):
        scheduler.set_timesteps(301)


UNUSUAL = {
    "num_train_timesteps": 300,
    "beta_start": 0.002,
    "beta_end": 0.03,
    "beta_schedule": "scaled_linear",
    "variance_type": "fixed_large",
    "clip_sample": False,
    "prediction_type": "v_prediction",
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.9,
    "clip_sample_range": 2.0,
    "sample_max_value": 3.0,
    "timestep_spacing": "trailing",
    "steps_offset": 1,
    "rescale_betas_zero_snr": True,
}


def settings(scheduler: SchedulerMixin) -> dict:
    return {name: scheduler.config[name] for name in UNUSUAL}


def test_compatibles_are_the_karras_family():
    assert {c.__name__ for c in DDPMCarsScheduler().compatibles} == {e.name for e in KarrasDiffusionSchedulers}


# Several of diffusers' schedulers call np.array on tensors.
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.parametrize("name", [e.name for e in KarrasDiffusionSchedulers])
def test_config_survives_a_round_trip_through_every_compatible_scheduler(name: str):
    ours = DDPMCarsScheduler(**UNUSUAL)
    other = getattr(diffusers, name).from_config(ours.config)
    assert type(other).__name__ == name
    assert other.config.num_train_timesteps == 300
    assert other.config.prediction_type == "v_prediction"
    back = DDPMCarsScheduler.from_config(other.config)
    assert type(back) is DDPMCarsScheduler
    assert settings(back) == settings(ours)
    assert torch.equal(back.betas, ours.betas)


def test_config_survives_a_json_file(tmp_path: Path):
    ours = DDPMCarsScheduler(**UNUSUAL)
    ours.save_config(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["scheduler_config.json"]
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert saved["_class_name"] == "DDPMCarsScheduler"
    assert {name: saved[name] for name in UNUSUAL} == UNUSUAL
    for scheduler in (
        DDPMCarsScheduler.from_pretrained(tmp_path),
        DDPMCarsScheduler.from_config(DDPMCarsScheduler.load_config(tmp_path)),
    ):
        assert settings(scheduler) == UNUSUAL
        assert torch.equal(scheduler.betas, ours.betas)
    stock = DDPMScheduler.from_pretrained(tmp_path)
    assert settings(stock) == UNUSUAL


def test_config_of_stock_is_loaded_from_a_json_file(tmp_path: Path):
    DDPMScheduler(**UNUSUAL).save_config(tmp_path)
    assert settings(DDPMCarsScheduler.from_pretrained(tmp_path)) == UNUSUAL


def test_trained_betas_survive_a_json_file(tmp_path: Path):
    betas = np.linspace(0.3, 0.01, 15)
    DDPMCarsScheduler(num_train_timesteps=15, trained_betas=betas).save_config(tmp_path)
    loaded = DDPMCarsScheduler.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.betas.numpy(), betas.astype(np.float32))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("n", [20, 1000])
def test_standard_normal_data_keeps_unit_variance_under_fixed_large(n: int, spacing: str):
    scheduler = DDPMCarsScheduler(variance_type="fixed_large", timestep_spacing=spacing, clip_sample=False)
    scheduler.set_timesteps(n)
    alpha_bar = alpha_bars()
    variance = 1.0
    for t, s in chain(scheduler):
        # x_t ~ N(0, 1) at every t, and E[eps | x_t] = sqrt(1 - alpha_bar_t) x_t.
        gain = mean_of_step(scheduler, math.sqrt(1 - alpha_bar[t]), t, 1.0)
        sigma = noise_std(scheduler, t)
        assert gain**2 + sigma**2 == pytest.approx(1.0 if s >= 0 else alpha_bar[t], abs=1e-10)
        variance = gain**2 * variance + sigma**2
    assert variance == pytest.approx(alpha_bar[t], abs=1e-9)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_small_log"])
@pytest.mark.parametrize("n", [20, 200])
def test_a_point_mass_is_sampled_exactly_under_fixed_small(n: int, variance_type: str, spacing: str):
    scheduler = DDPMCarsScheduler(
        variance_type=variance_type, timestep_spacing=spacing, prediction_type="sample", clip_sample=False
    )
    scheduler.set_timesteps(n)
    alpha_bar = np.append(alpha_bars(), 1.0)
    point = 0.6
    first = chain(scheduler)[0][0]
    mean, variance = math.sqrt(alpha_bar[first]) * point, 1 - alpha_bar[first]
    for t, s in chain(scheduler):
        gain = mean_of_step(scheduler, 0.0, t, 1.0)
        mean = mean_of_step(scheduler, point, t, mean)
        variance = gain**2 * variance + noise_std(scheduler, t) ** 2
        assert mean == pytest.approx(math.sqrt(alpha_bar[s]) * point, abs=1e-10)
        assert variance == pytest.approx(1 - alpha_bar[s], abs=1e-10)


@pytest.mark.parametrize("n", [10, 1000])
def test_posterior_is_the_normalised_product_of_two_gaussians(n: int):
    scheduler = DDPMCarsScheduler(variance_type="fixed_small", prediction_type="sample", clip_sample=False)
    scheduler.set_timesteps(n)
    alpha_bar = alpha_bars()
    x_0, x_t = 0.4, -0.7
    for t, s in [chain(scheduler)[i] for i in (0, n // 3, n // 2, n - 2)]:
        # q(x_s | x_0) q(x_t | x_s) on a fine grid.
        alpha = alpha_bar[t] / alpha_bar[s]
        width = math.sqrt(min(1 - alpha_bar[s], (1 - alpha) / alpha))
        guess = mean_of_step(scheduler, x_0, t, x_t)
        x_s = np.linspace(guess - 12 * width, guess + 12 * width, 200_001)
        log_density = -((x_s - math.sqrt(alpha_bar[s]) * x_0) ** 2) / (2 * (1 - alpha_bar[s]))
        log_density -= (x_t - math.sqrt(alpha) * x_s) ** 2 / (2 * (1 - alpha))
        density = np.exp(log_density - log_density.max())
        density /= density.sum()
        mean = float((density * x_s).sum())
        variance = float((density * (x_s - mean) ** 2).sum())
        assert guess == pytest.approx(mean, abs=1e-8)
        assert noise_std(scheduler, t) ** 2 == pytest.approx(variance, rel=1e-6)


def test_one_step_kernels_compose_to_the_marginal():
    T = 300
    scheduler = DDPMCarsScheduler(num_train_timesteps=T)
    betas = np.linspace(0.0001, 0.02, T)
    one, zero = torch.ones(T, 1, dtype=torch.float64), torch.zeros(T, 1, dtype=torch.float64)
    t = torch.arange(T)
    gains, stds = scheduler.add_noise(one, zero, t).flatten(), scheduler.add_noise(zero, one, t).flatten()
    gain, variance = 1.0, 0.0
    for i, beta in enumerate(betas):
        gain *= math.sqrt(1 - beta)
        variance = (1 - beta) * variance + beta
        assert float(gains[i]) == pytest.approx(gain, rel=1e-12)
        assert float(stds[i]) == pytest.approx(math.sqrt(variance), rel=1e-10)


@pytest.mark.parametrize("clip_sample", [False, True])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_the_three_predictions_of_one_image_give_the_same_step(variance_type: str, clip_sample: bool):
    x_0, eps = (randn(2, 3, 4, 4, seed=seed, dtype=torch.float64) for seed in range(2))
    schedulers = {
        name: DDPMCarsScheduler(prediction_type=name, variance_type=variance_type, clip_sample=clip_sample)
        for name in ("epsilon", "sample", "v_prediction")
    }
    for t in (999, 998, 500, 1, 0):
        batch = torch.tensor([t, t])
        x_t = schedulers["epsilon"].add_noise(x_0, eps, batch)
        predictions = {
            "epsilon": eps,
            "sample": x_0,
            "v_prediction": schedulers["epsilon"].get_velocity(x_0, eps, batch),
        }
        steps = [schedulers[name].step(predictions[name], t, x_t, generator=seeded(0)) for name in schedulers]
        expected = x_0.clamp(-1, 1) if clip_sample else x_0
        for step in steps:
            torch.testing.assert_close(step.pred_original_sample, expected, rtol=0, atol=1e-11)
            torch.testing.assert_close(step.prev_sample, steps[1].prev_sample, rtol=0, atol=1e-11)


@pytest.mark.parametrize("timesteps", [[999, 400, 20, 0], [7, 3]])
def test_learned_range_runs_from_fixed_small_to_fixed_large(timesteps: list[int]):
    schedulers = {
        name: DDPMCarsScheduler(variance_type=name) for name in ("fixed_small", "fixed_large", "learned_range")
    }
    for scheduler in schedulers.values():
        scheduler.set_timesteps(timesteps=timesteps)
    eps, x_t = randn(1, 3, 4, 4, seed=1, dtype=torch.float64), randn(1, 3, 4, 4, dtype=torch.float64)
    for t in timesteps:
        for place, name in ((-1.0, "fixed_small"), (1.0, "fixed_large")):
            model_output = torch.cat([eps, torch.full_like(eps, place)], dim=1)
            got = schedulers["learned_range"].step(model_output, t, x_t, generator=seeded(0)).prev_sample
            expected = schedulers[name].step(eps, t, x_t, generator=seeded(0)).prev_sample
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_dynamic_thresholding_works_on_each_image_alone():
    scheduler = DDPMCarsScheduler(
        prediction_type="sample", thresholding=True, dynamic_thresholding_ratio=0.75, sample_max_value=4.0
    )
    x_0_hat = randn(3, 3, 4, 4) * torch.tensor([0.1, 3.0, 50.0]).view(3, 1, 1, 1)
    got = scheduler.step(x_0_hat, 500, torch.zeros_like(x_0_hat)).pred_original_sample
    for image, thresholded in zip(x_0_hat.numpy(), got.numpy(), strict=True):
        bound = np.clip(np.quantile(np.abs(image), 0.75), 1, 4)
        np.testing.assert_allclose(thresholded, np.clip(image, -bound, bound) / bound, rtol=1e-6)


def test_fewer_trained_betas_than_timesteps_survive_saving(tmp_path: Path):
    scheduler = DDPMCarsScheduler(trained_betas=np.array([0.1, 0.3]))
    scheduler.save_config(tmp_path)
    again = DDPMCarsScheduler.from_pretrained(tmp_path)
    torch.testing.assert_close(again.betas, torch.tensor([0.1, 0.3]))
