"""The closed forms of the diffusion process in float64."""

import math

import numpy as np
import pytest
import torch

from ddpm_cars import DDPMCarsScheduler
from tests.support.scheduler_helpers import SPACINGS, alpha_bars, chain, mean_of_step, noise_std, randn, seeded


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


@pytest.mark.parametrize("t", [0, 300, 999])
def test_noised_samples_have_the_moments_of_the_marginal(t: int):
    x_0 = torch.linspace(-1, 1, 4, dtype=torch.float64).expand(100_000, 4)
    eps = randn(100_000, 4, dtype=torch.float64)
    x_t = DDPMCarsScheduler().add_noise(x_0, eps, torch.tensor(t))
    alpha_bar = alpha_bars()[t]
    # Five standard errors.
    bound = 5 * math.sqrt((1 - alpha_bar) / 100_000)
    assert float((x_t.mean(0) - math.sqrt(alpha_bar) * x_0[0]).abs().max()) < bound
    torch.testing.assert_close(x_t.var(0), torch.full((4,), 1 - alpha_bar, dtype=torch.float64), rtol=0.03, atol=0)
