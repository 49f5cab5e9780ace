"""What diffusers' DDPMScheduler lacks or gets wrong in its steps and timesteps."""

import copy
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from ddpm_cars import DDPMCarsScheduler
from ddpm_cars.diffusion.losses import min_snr_weights
from tests.support.scheduler_helpers import (
    LEARNED,
    SPACINGS,
    VARIANCES,
    alpha_bars,
    model_output_for,
    randn,
    seeded,
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
        scheduler.set_timesteps(n)
        chosen = scheduler.timesteps.numpy()
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
        assert (error <= half_ulp(exact, dtype) + 3e-5).all(), t


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


@pytest.mark.parametrize("n", [0, -1, 1001, 50.5, float("nan")])
def test_numbers_of_steps_out_of_range_raise_and_change_nothing(n: float):
    scheduler = DDPMCarsScheduler()
    scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match=rf"`num_inference_steps` is {n}; it must be a whole number from 1 to 1000"):
        scheduler.set_timesteps(n)
    assert scheduler.timesteps.tolist() == list(range(900, -1, -100))


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_whole_numbers_may_be_floats_as_sliders_give_them(spacing: str):
    scheduler, expected = (DDPMCarsScheduler(timestep_spacing=spacing) for _ in range(2))
    expected.set_timesteps(50)
    scheduler.set_timesteps(50.0)
    assert torch.equal(scheduler.timesteps, expected.timesteps)
    scheduler.set_timesteps(timesteps=[900.0, 3.0])
    assert scheduler.timesteps.tolist() == [900, 3]
    assert scheduler.timesteps.dtype == torch.int64


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
        ([900.5, 500, 100], "whole numbers"),
    ],
)
def test_bad_custom_timesteps_raise(timesteps: list[int], message: str):
    scheduler = DDPMCarsScheduler()
    with pytest.raises(ValueError, match=message):
        scheduler.set_timesteps(timesteps=timesteps)
    assert len(scheduler.timesteps) == 1000


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


def test_dynamic_thresholding_works_on_each_image_alone():
    scheduler = DDPMCarsScheduler(
        prediction_type="sample", thresholding=True, dynamic_thresholding_ratio=0.75, sample_max_value=4.0
    )
    x_0_hat = randn(3, 3, 4, 4) * torch.tensor([0.1, 3.0, 50.0]).view(3, 1, 1, 1)
    got = scheduler.step(x_0_hat, 500, torch.zeros_like(x_0_hat)).pred_original_sample
    for image, thresholded in zip(x_0_hat.numpy(), got.numpy(), strict=True):
        bound = np.clip(np.quantile(np.abs(image), 0.75), 1, 4)
        np.testing.assert_allclose(thresholded, np.clip(image, -bound, bound) / bound, rtol=1e-6)


@pytest.mark.parametrize("variance_type", ["learned", "learned_range"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_a_variance_that_is_not_used_is_never_nan(variance_type: str, per_sample: bool):
    scheduler = DDPMCarsScheduler(variance_type=variance_type, timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    sample = randn(2, 1, 2, 2)
    last = int(scheduler.timesteps[-1])
    assert last > 0
    # A negative variance and an infinite one.
    learned = torch.full_like(sample, -0.1 if variance_type == "learned" else 1e4)
    output = torch.cat([randn(2, 1, 2, 2, seed=1), learned], dim=1)
    timestep = torch.tensor([last, last]) if per_sample else last
    got = scheduler.step(output, timestep, sample)
    assert torch.equal(got.prev_sample, got.pred_original_sample)


@pytest.mark.parametrize("method", ["add_noise", "get_velocity"])
def test_timesteps_between_noise_levels_are_refused(method: str):
    x = randn(2, 1, 2, 2)
    with pytest.raises(ValueError, match=r"float32.*use .long"):
        getattr(DDPMCarsScheduler(), method)(x, x, torch.tensor([0.7, 3.0]))


def test_thresholding_of_float64_is_float64():
    scheduler = DDPMCarsScheduler(prediction_type="sample", thresholding=True, sample_max_value=10.0)
    x = 3 * randn(2, 3, 4, 4, dtype=torch.float64)
    images = x.numpy()
    q = np.quantile(np.abs(images), 0.995, axis=(1, 2, 3), keepdims=True)
    x_0_hat = scheduler.predict_original_sample(x, 500, x)
    np.testing.assert_allclose(x_0_hat, np.clip(images, -q, q) / q, rtol=1e-14)


def test_noise_levels_that_a_trainer_assigns_are_used():
    """Training scripts rescale the tables of a scheduler that they were given."""
    scheduler = DDPMCarsScheduler(prediction_type="v_prediction")
    wanted = DDPMCarsScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    x, eps, t = randn(2, 1, 2, 2), randn(2, 1, 2, 2, seed=1), torch.tensor([999, 500])
    # Tables that were made before must go.
    scheduler.set_timesteps(10)
    scheduler.step(x, 900, x, seeded(0))
    min_snr_weights(scheduler, t, 5.0)
    for name in ("betas", "alphas", "alphas_cumprod"):
        setattr(scheduler, name, getattr(wanted, name).clone())
    wanted.set_timesteps(10)
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(scheduler.add_noise(x, eps, t), wanted.add_noise(x, eps, t), **close)
    assert torch.equal(scheduler.add_noise(x, eps, t)[0], eps[0])
    torch.testing.assert_close(scheduler.get_velocity(x, eps, t), wanted.get_velocity(x, eps, t), **close)
    torch.testing.assert_close(min_snr_weights(scheduler, t, 5.0), min_snr_weights(wanted, t, 5.0), **close)
    for i in (900, torch.tensor([900, 100])):
        got, expected = (s.step(eps, i, x, seeded(0)).prev_sample for s in (scheduler, wanted))
        torch.testing.assert_close(got, expected, **close)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_noise_levels_that_are_edited_in_place_are_used_as_stock_uses_them(prediction_type: str):
    ours, stock = (c(prediction_type=prediction_type) for c in (DDPMCarsScheduler, DDPMScheduler))
    x, eps, t = randn(2, 1, 2, 2), randn(2, 1, 2, 2, seed=1), torch.tensor([990, 500])
    results = []
    for scheduler in (ours, stock):
        scheduler.set_timesteps(100)
        scheduler.step(eps, 990, x, seeded(0))
        scheduler.alphas_cumprod.mul_(0.5)
        scheduler.alphas_cumprod[-10] = 1e-3
        results.append(
            [
                scheduler.add_noise(x, eps, t),
                scheduler.get_velocity(x, eps, t),
                *scheduler.step(eps, 990, x, seeded(0), return_dict=False),
            ]
        )
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_timesteps_that_are_edited_in_place_are_those_of_sampling():
    edited, chosen = DDPMCarsScheduler(), DDPMCarsScheduler()
    edited.set_timesteps(3)
    x = randn(1, 1, 2, 2)
    edited.step(x, 666, x)
    edited.timesteps[0] = 950
    chosen.set_timesteps(timesteps=[950, 333, 0])
    expected = chosen.step(x, 950, x, seeded(0)).prev_sample
    assert torch.equal(edited.step(x, 950, x, seeded(0)).prev_sample, expected)


def test_a_scheduler_made_for_inference_works():
    with torch.inference_mode():
        scheduler = DDPMCarsScheduler()
        scheduler.set_timesteps(10)
        x = randn(1, 1, 2, 2)
        got = scheduler.step(x, 900, x, seeded(0)).prev_sample
    plain = DDPMCarsScheduler()
    plain.set_timesteps(10)
    assert torch.equal(got, plain.step(x, 900, x, seeded(0)).prev_sample)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_copy_of_the_tables_is_no_new_schedule(dtype: torch.dtype):
    scheduler, untouched = DDPMCarsScheduler(), DDPMCarsScheduler()
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(dtype, copy=True)
    assert scheduler.alphas_cumprod.dtype == dtype
    x, t = randn(2, 1, 2, 2, dtype=torch.float64), torch.tensor([999, 0])
    assert torch.equal(scheduler.add_noise(x, x, t), untouched.add_noise(x, x, t))


def test_noise_levels_can_be_read_in_full_precision_and_not_written():
    scheduler = DDPMCarsScheduler()
    np.testing.assert_allclose(scheduler.alphas_cumprod_float64, alpha_bars(), rtol=1e-14)
    with pytest.raises(ValueError, match="read-only"):
        scheduler.alphas_cumprod_float64[0] = 1
    scheduler.alphas_cumprod = scheduler.alphas_cumprod / 2
    np.testing.assert_allclose(scheduler.alphas_cumprod_float64, alpha_bars() / 2, rtol=1e-6)


@pytest.mark.parametrize("thresholding", [False, True])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_x_0_hat_can_be_had_without_a_step_at_any_timestep(prediction_type: str, thresholding: bool):
    scheduler = DDPMCarsScheduler(prediction_type=prediction_type, thresholding=thresholding)
    output, x_t = randn(2, 3, 4, 4, seed=1), randn(2, 3, 4, 4)
    expected = [scheduler.step(output, t, x_t).pred_original_sample for t in (700, 3)]
    scheduler.set_timesteps(2)
    got = [scheduler.predict_original_sample(output, t, x_t) for t in (700, 3)]
    assert all(map(torch.equal, got, expected))
    rows = torch.cat([got[0][:1], got[1][1:]])
    torch.testing.assert_close(scheduler.predict_original_sample(output, torch.tensor([700, 3]), x_t), rows)
    free = DDPMCarsScheduler(prediction_type=prediction_type, clip_sample=False).step(output, 3, x_t)
    got = scheduler.predict_original_sample(output, 3, x_t, clip=False)
    assert torch.equal(got, free.pred_original_sample)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_the_last_step_leaves_the_generator_alone(as_tensor: bool):
    scheduler, generator = DDPMCarsScheduler(), seeded(0)
    before, x = generator.get_state(), torch.zeros(1, 3, 4, 4)
    scheduler.step(x, torch.tensor(0) if as_tensor else 0, x, generator)
    assert torch.equal(generator.get_state(), before)


def test_threads_may_share_a_scheduler():
    scheduler, errors = DDPMCarsScheduler(num_train_timesteps=100), []
    x, t, stop = randn(2, 1, 2, 2), torch.tensor([90, 10]), threading.Event()

    def repeat(work: Callable[[], object]) -> None:
        try:
            while not stop.is_set():
                work()
        except Exception as error:
            errors.append(error)
            stop.set()

    scheduler.set_timesteps(10)
    works = [lambda: scheduler.set_timesteps(10), lambda: scheduler.step(x, t, x), lambda: scheduler.step(x, t, x)]
    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        stop.wait(2)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert errors == []
