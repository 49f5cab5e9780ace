"""Properties of the calibrated variances over all schedules, spacings, lengths, shapes and measured errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_cars import DDPMCarsScheduler
from ddpm_cars.diffusion.calibration import band_edges
from ddpm_cars.scheduling_ddpm_cars import posterior

quick = settings(max_examples=40, deadline=None)
SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid"]
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 2e-3, torch.float32: 2e-5, torch.float64: 1e-11}


@st.composite
def calibrated(draw: st.DrawFn) -> tuple[DDPMCarsScheduler, tuple[int, ...]]:
    """Draw a scheduler with any errors at any timesteps, and the shape of its samples."""
    T = draw(st.integers(1, 1000))
    rescale = draw(st.booleans()) and T > 1
    scheduler = DDPMCarsScheduler(
        T,
        beta_schedule=draw(st.sampled_from(SCHEDULES)),
        variance_type=draw(st.sampled_from(["analytic", "spectral"])),
        prediction_type="v_prediction" if rescale else "epsilon",
        timestep_spacing=draw(st.sampled_from(["leading", "linspace", "trailing"])),
        rescale_betas_zero_snr=rescale,
        max_last_noise_grey_levels=draw(st.sampled_from([None, 0.5, 1.0])),
    )
    channels, height, width = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    edges = band_edges(height, width, draw(st.integers(2, 8)))
    t = sorted(draw(st.sets(st.integers(0, T - 1 - rescale), min_size=1, max_size=10)))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    # A bad network's error has no reason to be below 1 at every band.
    errors = rng.uniform(0, 1, (len(t), channels, len(edges) - 1)).round(draw(st.integers(0, 9)))
    scheduler.set_calibration(
        {
            "num_train_timesteps": T,
            "timesteps": t,
            "alphas_cumprod": scheduler.alphas_cumprod_float64[t].tolist(),
            "eps_mse": errors.mean((1, 2)).tolist(),
            "sample_size": [height, width],
            "band_edges": edges.tolist(),
            "colour_axes": np.linalg.qr(rng.normal(size=(channels, channels)))[0].tolist(),
            "band_variance": rng.uniform(0, 40, errors.shape[1:]).tolist(),
            "band_eps_mse": errors.tolist(),
        }
    )
    scheduler.set_timesteps(draw(st.integers(1, T)))
    frames = draw(st.sampled_from([(), (2,)]))
    return scheduler, (draw(st.integers(1, 3)), channels, *frames, height, width)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    output, x_t = (torch.randn(shape, generator=seeded(i), dtype=torch.float64).to(dtype) for i in range(2))
    return output, x_t


@quick
@given(calibrated(), st.sampled_from(DTYPES), st.data())
def test_steps_are_finite_keep_shape_and_dtype_and_commute_with_the_batch(drawn, dtype: torch.dtype, data):
    scheduler, shape = drawn
    output, x_t = inputs(shape, dtype)
    t = data.draw(st.sampled_from(scheduler.timesteps.tolist()))
    order = data.draw(st.permutations(range(shape[0])))
    got = scheduler.step(output, t, x_t, [seeded(i) for i in range(shape[0])]).prev_sample
    assert (got.shape, got.dtype) == (shape, dtype)
    assert got.isfinite().all()
    permuted = scheduler.step(output[order], t, x_t[order], [seeded(i) for i in order]).prev_sample
    torch.testing.assert_close(permuted, got[order], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    many = scheduler.step(output, torch.full(shape[:1], t), x_t, [seeded(i) for i in range(shape[0])]).prev_sample
    torch.testing.assert_close(many, got, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@quick
@given(calibrated())
def test_noise_lies_between_that_of_a_point_and_what_the_data_allow(drawn):
    scheduler, shape = drawn
    zeros = torch.zeros((64, *shape[1:]), dtype=torch.float64)
    limit = max(1.0, max(map(max, scheduler.config._calibration["band_variance"])))
    for t in scheduler.timesteps[:: max(1, len(scheduler.timesteps) // 4)].tolist():
        noise, s = scheduler.step(zeros, t, zeros, seeded(0)).prev_sample, int(scheduler.previous_timestep(t))
        white = torch.randn(zeros.shape, generator=seeded(0), dtype=torch.float64)
        if s < 0:
            assert not noise.any()
            continue
        power = float(noise.square().sum() / white.square().sum())
        x_0_weight, _, _, beta_tilde = posterior(*scheduler.alphas_cumprod_float64[[t, s]])
        assert power <= (beta_tilde + x_0_weight**2 * limit) * (1 + 1e-9)
        if scheduler.config.max_last_noise_grey_levels is None:
            assert power >= beta_tilde * (1 - 1e-9)


@quick
@given(calibrated(), st.integers(0, 2**32), st.integers(0, 2**32))
def test_last_step_ignores_the_seed(drawn, seed: int, other_seed: int):
    scheduler, shape = drawn
    output, x_t = inputs(shape, torch.float32)
    last = scheduler.timesteps[-1]
    a, b = (scheduler.step(output, last, x_t, generator=seeded(s)).prev_sample for s in (seed, other_seed))
    assert torch.equal(a, b)


@quick
@given(calibrated())
def test_a_calibration_survives_its_config(drawn):
    scheduler, shape = drawn
    output, x_t = inputs(shape, torch.float32)
    again = DDPMCarsScheduler.from_config(scheduler.config)
    again.set_timesteps(scheduler.num_inference_steps)
    t = scheduler.timesteps[0]
    a, b = (s.step(output, t, x_t, generator=seeded(0)).prev_sample for s in (scheduler, again))
    assert torch.equal(a, b)
    wrong_T = DDPMCarsScheduler.from_config(scheduler.config, num_train_timesteps=len(scheduler) + 1)
    with pytest.raises(ValueError, match="calibrate again"):
        wrong_T.set_timesteps(1)
