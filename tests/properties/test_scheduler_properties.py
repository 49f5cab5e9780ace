"""Properties of DDPMCarsScheduler over all of its settings."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_cars import DDPMCarsScheduler

SPACINGS = ["leading", "linspace", "trailing"]
SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid"]
VARIANCES = ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"]
PREDICTIONS = ["epsilon", "sample", "v_prediction"]
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 2e-3, torch.float32: 2e-5, torch.float64: 1e-11}

quick = settings(max_examples=50, deadline=None)
shapes = st.one_of(
    st.tuples(st.integers(1, 4), st.integers(1, 3), *[st.integers(1, 4)] * spatial) for spatial in (1, 2, 3)
)
lengths = st.integers(1, 1000)


@st.composite
def chains(draw: st.DrawFn) -> tuple[int, int]:
    T = draw(lengths)
    return T, draw(st.integers(1, T))


@st.composite
def schedulers(draw: st.DrawFn) -> DDPMCarsScheduler:
    T, n = draw(chains())
    scheduler = DDPMCarsScheduler(
        num_train_timesteps=T,
        beta_schedule=draw(st.sampled_from(SCHEDULES)),
        variance_type=draw(st.sampled_from(VARIANCES)),
        prediction_type=draw(st.sampled_from(PREDICTIONS)),
        clip_sample=draw(st.booleans()),
        thresholding=draw(st.booleans()),
        timestep_spacing=draw(st.sampled_from(SPACINGS)),
        steps_offset=draw(st.integers(0, 10)),
    )
    scheduler.set_timesteps(n)
    return scheduler


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def step_inputs(
    scheduler: DDPMCarsScheduler, shape: tuple[int, ...], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = seeded(0)
    x_t = torch.randn(shape, generator=generator)
    model_output = torch.randn(shape, generator=generator)
    if scheduler.config.variance_type.startswith("learned"):
        model_output = torch.cat([model_output, torch.rand(shape, generator=generator)], dim=1)
    return model_output.to(dtype), x_t.to(dtype)


def assert_close(a: torch.Tensor, b: torch.Tensor) -> None:
    tolerance = TOLERANCE[a.dtype]
    # An x_0_hat found from eps at a small alpha_bar is large, and so is its rounding.
    scale = max(1.0, float(b.abs().max()))
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * scale)


@quick
@given(chains(), st.sampled_from(SPACINGS), st.integers(0, 1200))
def test_timesteps_have_their_length_order_and_range(chain: tuple[int, int], spacing: str, offset: int):
    T, n = chain
    scheduler = DDPMCarsScheduler(num_train_timesteps=T, timestep_spacing=spacing, steps_offset=offset)
    scheduler.set_timesteps(n)
    chosen = scheduler.timesteps
    assert chosen.dtype == torch.int64
    assert chosen.shape == (n,)
    assert scheduler.num_inference_steps == n
    assert chosen.min() >= 0
    assert chosen.max() <= T - 1
    assert (chosen.diff() < 0).all()
    if spacing == "trailing" or (spacing == "linspace" and n > 1):
        assert chosen[0] == T - 1
    followers = scheduler.previous_timestep(chosen)
    assert followers.tolist() == [*chosen[1:].tolist(), -1]


@quick
@given(st.integers(-5, 1100), lengths)
def test_numbers_of_steps_out_of_range_raise(n: int, T: int):
    scheduler = DDPMCarsScheduler(num_train_timesteps=T)
    if 1 <= n <= T:
        scheduler.set_timesteps(n)
        assert len(scheduler.timesteps) == n
    else:
        with pytest.raises(ValueError, match=str(n)):
            scheduler.set_timesteps(n)


@quick
@given(st.sets(st.integers(0, 299), min_size=1), st.randoms())
def test_custom_timesteps_are_taken_in_descending_order_only(timesteps: set[int], random):
    scheduler = DDPMCarsScheduler(num_train_timesteps=300)
    descending = sorted(timesteps, reverse=True)
    scheduler.set_timesteps(timesteps=descending)
    assert scheduler.timesteps.tolist() == descending
    shuffled = random.sample(descending, len(descending))
    if shuffled != descending:
        with pytest.raises(ValueError, match="descending"):
            scheduler.set_timesteps(timesteps=shuffled)


@quick
@given(lengths, st.sampled_from(SCHEDULES), st.booleans())
def test_noise_only_grows(T: int, schedule: str, rescale: bool):
    rescale = rescale and T > 1
    scheduler = DDPMCarsScheduler(num_train_timesteps=T, beta_schedule=schedule, rescale_betas_zero_snr=rescale)
    alpha_bar = scheduler.alphas_cumprod_float64
    assert alpha_bar.dtype == np.float64
    assert len(alpha_bar) == len(scheduler.betas) == T
    assert np.all(np.diff(alpha_bar) < 0)
    assert alpha_bar[0] < 1
    assert alpha_bar[-1] >= 0
    assert (alpha_bar[-1] == 0) == rescale


@quick
@given(schedulers(), shapes, st.sampled_from(DTYPES), st.data())
def test_steps_are_finite_and_keep_shape_and_dtype(scheduler, shape: tuple[int, ...], dtype: torch.dtype, data):
    model_output, x_t = step_inputs(scheduler, shape, dtype)
    t = data.draw(st.sampled_from(scheduler.timesteps.tolist()))
    # float16 ends at 65504, and eps / sqrt(alpha_bar) of the steepest schedules does not.
    may_overflow = dtype == torch.float16 and scheduler.alphas_cumprod_float64[t] < 1e-6
    step = scheduler.step(model_output, t, x_t, generator=seeded(0))
    for tensor in (step.prev_sample, step.pred_original_sample):
        assert tensor.shape == shape
        assert tensor.dtype == dtype
        assert may_overflow or tensor.isfinite().all()
    if scheduler.config.clip_sample or scheduler.config.thresholding:
        assert step.pred_original_sample.abs().max() <= 1


@quick
@given(schedulers(), shapes, st.sampled_from(DTYPES), st.data())
def test_noised_samples_are_finite_and_keep_shape_and_dtype(scheduler, shape, dtype: torch.dtype, data):
    _, x = step_inputs(scheduler, shape, dtype)
    eps = torch.randn(shape, generator=seeded(1)).to(dtype)
    T = scheduler.config.num_train_timesteps
    t = torch.tensor(data.draw(st.lists(st.integers(0, T - 1), min_size=shape[0], max_size=shape[0])))
    for method in (scheduler.add_noise, scheduler.get_velocity):
        batch = method(x, eps, t)
        assert batch.shape == shape
        assert batch.dtype == dtype
        assert batch.isfinite().all()
        for i in range(shape[0]):
            assert_close(batch[i : i + 1], method(x[i : i + 1], eps[i : i + 1], t[i]))


@quick
@given(schedulers(), shapes, st.sampled_from(DTYPES), st.data())
def test_steps_commute_with_permutations_of_the_batch(scheduler, shape, dtype: torch.dtype, data):
    model_output, x_t = step_inputs(scheduler, shape, dtype)
    t = data.draw(st.sampled_from(scheduler.timesteps.tolist()))
    order = data.draw(st.permutations(range(shape[0])))
    straight = scheduler.step(model_output, t, x_t, generator=[seeded(i) for i in range(shape[0])])
    permuted = scheduler.step(model_output[order], t, x_t[order], generator=[seeded(i) for i in order])
    assert_close(permuted.prev_sample, straight.prev_sample[order])
    assert_close(permuted.pred_original_sample, straight.pred_original_sample[order])


@quick
@given(schedulers(), shapes, st.sampled_from(DTYPES), st.booleans(), st.data())
def test_step_of_a_batch_equals_steps_of_each(scheduler, shape, dtype: torch.dtype, per_sample: bool, data):
    model_output, x_t = step_inputs(scheduler, shape, dtype)
    chosen = st.sampled_from(scheduler.timesteps.tolist())
    if per_sample:
        timesteps = data.draw(st.lists(chosen, min_size=shape[0], max_size=shape[0]))
        t: int | torch.Tensor = torch.tensor(timesteps)
    else:
        t = data.draw(chosen)
        timesteps = [t] * shape[0]
    together = scheduler.step(model_output, t, x_t, generator=[seeded(i) for i in range(shape[0])])
    for i, t_i in enumerate(timesteps):
        alone = scheduler.step(model_output[i : i + 1], t_i, x_t[i : i + 1], generator=seeded(i))
        for name in ("prev_sample", "pred_original_sample"):
            a, b = together[name][i : i + 1], alone[name]
            if b.isfinite().all():
                assert_close(a, b)


@quick
@given(schedulers(), st.integers(0, 2**32), st.integers(0, 2**32))
def test_last_step_ignores_the_seed(scheduler, seed: int, other_seed: int):
    model_output, x_t = step_inputs(scheduler, (2, 3, 2, 2), torch.float32)
    last = scheduler.timesteps[-1]
    a, b = (scheduler.step(model_output, last, x_t, generator=seeded(s)).prev_sample for s in (seed, other_seed))
    assert torch.equal(a, b)


@quick
@given(chains(), st.sampled_from(SPACINGS), st.sampled_from(SCHEDULES), st.data())
def test_predictions_of_one_image_agree(chain: tuple[int, int], spacing: str, schedule: str, data):
    T, n = chain
    ours = {
        name: DDPMCarsScheduler(
            num_train_timesteps=T,
            beta_schedule=schedule,
            timestep_spacing=spacing,
            prediction_type=name,
            clip_sample=False,
        )
        for name in PREDICTIONS
    }
    for scheduler in ours.values():
        scheduler.set_timesteps(n)
    t = data.draw(st.sampled_from(ours["epsilon"].timesteps.tolist()))
    x_0, eps = (torch.randn(2, 1, 3, generator=seeded(seed), dtype=torch.float64) for seed in range(2))
    batch = torch.tensor([t, t])
    x_t = ours["epsilon"].add_noise(x_0, eps, batch)
    v = ours["epsilon"].get_velocity(x_0, eps, batch)
    steps = {
        name: ours[name].step(prediction, t, x_t, generator=seeded(2))
        for name, prediction in zip(PREDICTIONS, (eps, x_0, v), strict=True)
    }
    # eps is divided by sqrt(alpha_bar), which is as small as 1e-5 under the steepest schedules.
    amplified = 1e-14 / max(np.sqrt(ours["epsilon"].alphas_cumprod_float64[t]), 1e-12) + 1e-11
    for step in steps.values():
        torch.testing.assert_close(step.pred_original_sample, x_0, rtol=0, atol=amplified)
        torch.testing.assert_close(step.prev_sample, steps["sample"].prev_sample, rtol=0, atol=amplified)
