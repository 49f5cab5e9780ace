"""The measured variational bound against closed forms of Gaussian data, torch.distributions and the training loss."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ddpm_cars import DDPMCarsScheduler
from ddpm_cars.diffusion.bound import expected_kl_nats
from ddpm_cars.diffusion.losses import vlb_bpd
from tests.support.scheduler_helpers import ALPHA_BAR, T, mean_of_step, noise_std
from tests.support.variational_bound_helpers import (
    CHAINS,
    WHITE,
    Network,
    bound_of,
    by_name,
    decoder_bpd,
    decoder_variance_of,
    ideal,
    kl_bpd,
    measure,
    normal_images,
    odd,
    pairs,
    place_of,
    scheduler_of,
    step_of,
    variance_of,
)


@pytest.mark.parametrize("chain", by_name(CHAINS))
@pytest.mark.parametrize("variance_type", WHITE)
@pytest.mark.parametrize("c", [0.01, 0.3])
def test_terms_of_every_image_are_those_of_torch_distributions(c: float, variance_type: str, chain: list[int]):
    x_0, network = normal_images(c, 2, 1, 2, 3), Network(ideal(c))
    bound = bound_of(network, x_0, scheduler_of(variance_type, chain, c))
    assert bound.timesteps.tolist() == chain
    assert bound.terms_bpd.shape == (2, len(chain))
    for i, (t, s) in enumerate(pairs(chain)):
        step = step_of(t, s, c)
        x_t = network.seen[t]
        expected = kl_bpd(x_0, x_t, ideal(c)(x_t, t), step, variance_of(variance_type, step))
        np.testing.assert_allclose(bound.terms_bpd[:, i], expected, rtol=1e-9, atol=1e-12)
    x_0_hat = ideal(c)(network.seen[chain[-1]], chain[-1])
    decoder = decoder_bpd(x_0, x_0_hat, decoder_variance_of(variance_type, chain, c))
    np.testing.assert_allclose(bound.decoder_bpd, decoder, rtol=1e-8)
    alpha_bar = torch.tensor(ALPHA_BAR[chain[0]])
    prior = kl_divergence(Normal(alpha_bar.sqrt() * x_0, (1 - alpha_bar).sqrt()), Normal(0.0, 1.0)).mean((1, 2, 3))
    np.testing.assert_allclose(bound.prior_bpd, prior / math.log(2), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("chain", by_name(CHAINS))
@pytest.mark.parametrize("variance_type", WHITE)
@pytest.mark.parametrize("c", [0.01, 0.3, 1.0])
def test_expected_terms_of_gaussian_data_are_their_closed_form(c: float, variance_type: str, chain: list[int]):
    t, s = np.array(pairs(chain), dtype=int).reshape(-1, 2).T
    x_0_mse = np.array([step_of(int(i), -1, c).x_0_variance for i in t])
    got = expected_kl_nats(scheduler_of(variance_type, [0], c), t, s, x_0_mse)
    expected = []
    for (t, s), mse in zip(pairs(chain), x_0_mse, strict=True):
        step = step_of(t, s, c)
        variance, ratio = variance_of(variance_type, step), step.beta_tilde / variance_of(variance_type, step)
        of_mean = step.alpha_bar_s * step.beta**2 / ((1 - step.alpha_bar_t) ** 2 * variance) * mse
        expected.append((-math.log(ratio) - 1 + ratio + of_mean) / 2)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("chain", by_name(CHAINS))
@pytest.mark.parametrize("c", [0.01, 0.3, 1.0])
def test_the_analytic_bound_of_gaussian_data_is_their_entropy_and_the_mismatch_of_the_prior(
    c: float, chain: list[int]
):
    # With the true p(x_s | x_t) of every step, the bound is -log p(x_0) but for starting from N(0, I).
    t, s = np.array(pairs(chain), dtype=int).reshape(-1, 2).T
    x_0_mse = np.array([step_of(t, -1, c).x_0_variance for t in range(T)])
    kl = expected_kl_nats(scheduler_of("analytic", [0], c), t, s, x_0_mse[t]).sum()
    alpha_bar = ALPHA_BAR[chain[0]]
    marginal = alpha_bar * c + 1 - alpha_bar
    prior = (alpha_bar * c - alpha_bar - math.log(1 - alpha_bar)) / 2
    mismatch = (marginal - 1 - math.log(marginal)) / 2
    decoder, entropy = (math.log(2 * math.pi * math.e * variance) / 2 for variance in (x_0_mse[chain[-1]], c))
    assert prior + kl + decoder == pytest.approx(entropy + mismatch, abs=1e-10)


@pytest.mark.parametrize("name", ["irregular", "leading"])
def test_the_bound_of_quantised_gaussian_data_is_their_entropy(name: str):
    c, chain = 0.01, CHAINS[name]
    exact, small = measure(
        Network(ideal(c)),
        normal_images(c, 300, 1, 8, 8),
        scheduler_of("analytic", chain, c),
        scheduler_of("fixed_small", chain, c),
    ).bounds.values()
    marginal = ALPHA_BAR[chain[0]] * c + 1 - ALPHA_BAR[chain[0]]
    nats = (math.log(2 * math.pi * math.e * c) + marginal - 1 - math.log(marginal)) / 2
    expected = nats / math.log(2) + math.log2(127.5)
    assert exact.bpd_std_error < 0.02
    assert abs(exact.bpd - expected) < 4 * exact.bpd_std_error
    assert small.bpd > expected + 0.1


@pytest.mark.parametrize("variance_type", WHITE)
def test_the_variance_is_the_one_that_sampling_draws_with(variance_type: str):
    chain = CHAINS["irregular"]
    scheduler = scheduler_of(variance_type, chain, prediction_type="sample")
    for t, s in pairs(chain):
        without, with_error = expected_kl_nats(scheduler, t, s, np.array([0.0, 1.0]))
        x_0_weight = mean_of_step(scheduler, 1.0, t, 0.0)
        variance = x_0_weight**2 / (2 * (with_error - without))
        assert variance == pytest.approx(noise_std(scheduler, t) ** 2, rel=1e-8)


def test_expected_terms_broadcast():
    scheduler = scheduler_of("fixed_large", [0])
    t, s, mse = np.array([5, 900]), np.array([[1], [2], [4]]), np.full((4, 1, 1), 0.3)
    got = expected_kl_nats(scheduler, t, s, mse)
    assert got.shape == (4, 3, 2)
    assert got[1, 2, 1] == expected_kl_nats(scheduler, 900, 4, 0.3)


@pytest.mark.parametrize("variance_type", [*WHITE, "learned_range"])
@pytest.mark.parametrize("chain", by_name({"all": [1, 0], "late": [700, 350], "one": [30]}))
def test_the_256_values_of_a_pixel_have_probabilities_that_add_up_to_one(variance_type: str, chain: list[int]):
    levels = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).view(256, 1, 1, 1)
    network = Network(lambda x_t, t: torch.full_like(x_t, 0.123), "sample", lambda x_t, t: torch.full_like(x_t, 0.4))
    bound = bound_of(network, levels, scheduler_of(variance_type, chain, prediction_type="sample"))
    assert np.exp2(-bound.decoder_bpd).sum() == pytest.approx(1, abs=1e-11)


@pytest.mark.parametrize("chain", by_name({name: CHAINS[name] for name in ("leading", "irregular", "late", "one")}))
def test_a_learned_variance_is_read_from_the_network(chain: list[int]):
    x_0, network = normal_images(0.3, 3, 2, 2, 2), Network(odd, place=place_of)
    bound = bound_of(network, x_0, scheduler_of("learned_range", chain))

    def variance(t: int, large: float, small: float) -> torch.Tensor:
        f = (place_of(network.seen[t], t) + 1) / 2
        return torch.exp(f * math.log(large) + (1 - f) * math.log(small))

    for i, (t, s) in enumerate(pairs(chain)):
        x_t, step = network.seen[t], step_of(t, s)
        expected = kl_bpd(x_0, x_t, odd(x_t, t), step, variance(t, step.beta, step.beta_tilde))
        np.testing.assert_allclose(bound.terms_bpd[:, i], expected, rtol=1e-9, atol=1e-12)
    # Wide bins, which differences of a cdf resolve.
    x_t, small = network.seen[chain[-1]], decoder_variance_of("learned_range", chain)
    near = Network(lambda x_t, t: x_0 + 0.01 * torch.sin(x_t), place=place_of)
    decoder = bound_of(near, x_0, scheduler_of("learned_range", chain)).decoder_bpd
    large = variance(chain[-1], step_of(chain[-1], -1).beta, small)
    np.testing.assert_allclose(decoder, decoder_bpd(x_0, x_0 + 0.01 * torch.sin(x_t), large), rtol=1e-8)


def test_a_chain_of_all_timesteps_has_the_terms_that_a_variance_is_trained_on():
    config = {"num_train_timesteps": 20, "beta_start": 0.01, "beta_end": 0.4, "clip_sample": False}
    scheduler = DDPMCarsScheduler(variance_type="learned_range", **config)
    scheduler.set_timesteps(20)
    x_0, seen = normal_images(0.3, 5, 3, 4, 4).float(), {}

    def network(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        output = torch.cat([0.5 * x_t, torch.sin(3 * x_t)], dim=1)
        seen[int(t[0])] = output, x_t, t
        return output

    bound = bound_of(network, x_0, scheduler)
    expected = [vlb_bpd(scheduler, seen[t][0], x_0, seen[t][1], seen[t][2]).numpy() for t in range(20)[::-1]]
    np.testing.assert_allclose(bound.terms_bpd, np.stack(expected, axis=1), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [{"clip_sample": True, "clip_sample_range": 0.4}, {"thresholding": True}])
def test_predictions_are_clipped_as_sampling_clips_them(settings: dict):
    chain, x_0 = CHAINS["irregular"], normal_images(0.3, 2, 3, 4, 4)
    scheduler = scheduler_of("fixed_large", chain, **settings)
    network = Network(lambda x_t, t: 3 * odd(x_t, t))
    likelihood = measure(network, x_0, scheduler)
    bound = likelihood.bounds["0"]
    for i, (t, s) in enumerate(pairs(chain)):
        x_t, step = network.seen[t], step_of(t, s)
        eps_hat = Network(network.x_0_hat)(x_t, torch.tensor([t]))
        x_0_hat = scheduler.step(eps_hat, t, x_t, torch.Generator()).pred_original_sample
        np.testing.assert_allclose(bound.terms_bpd[:, i], kl_bpd(x_0, x_t, x_0_hat, step, step.beta), rtol=1e-6)
        mse = (x_0 - x_0_hat).square().mean((1, 2, 3)) * step.alpha_bar_t / (1 - step.alpha_bar_t)
        np.testing.assert_allclose(likelihood.eps_mse[:, -1 - i], mse, rtol=1e-6)


def test_the_error_is_that_of_the_noise():
    network, chain, x_0 = Network(ideal(0.3)), CHAINS["irregular"], normal_images(0.3, 3, 1, 4, 4)
    likelihood = measure(network, x_0, scheduler_of("fixed_small", chain), scheduler_of("fixed_large", [998, 77]))
    assert likelihood.timesteps.tolist() == sorted({*chain, 77})
    assert likelihood.eps_mse.shape == (3, len(chain) + 1)
    for i, t in enumerate(likelihood.timesteps.tolist()):
        a, b = math.sqrt(ALPHA_BAR[t]), math.sqrt(1 - ALPHA_BAR[t])
        eps, eps_hat = ((network.seen[t] - a * x) / b for x in (x_0, ideal(0.3)(network.seen[t], t)))
        np.testing.assert_allclose(likelihood.eps_mse[:, i], (eps - eps_hat).square().mean((1, 2, 3)), rtol=1e-9)


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large", "analytic", "learned_range"])
def test_zero_terminal_snr_starts_without_a_loss(variance_type: str, prediction_type: str):
    scheduler = DDPMCarsScheduler(
        variance_type=variance_type, prediction_type=prediction_type, rescale_betas_zero_snr=True, clip_sample=False
    )
    alpha_bar = scheduler.alphas_cumprod_float64
    eps_mse = alpha_bar * 0.3 / (alpha_bar * 0.3 + 1 - alpha_bar)
    measured = {"num_train_timesteps": T, "timesteps": list(range(T)), "alphas_cumprod": alpha_bar.tolist()}
    scheduler.set_calibration({**measured, "eps_mse": eps_mse.tolist()})
    scheduler.set_timesteps(timesteps=[999, 500, 0])
    x_0 = normal_images(0.3, 4, 1, 4, 4)

    def network(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        # x_0_hat is 0, and the variance in the middle.
        zeros = torch.zeros_like(x_t)
        a, b = (math.sqrt(x) for x in (alpha_bar[t[0]], 1 - alpha_bar[t[0]]))
        return torch.cat([zeros if prediction_type == "sample" else a / b * x_t, zeros], dim=1)

    likelihood = measure(network, x_0, scheduler)
    bound = likelihood.bounds["0"]
    assert (bound.prior_bpd == 0).all()
    assert (likelihood.eps_mse[:, -1] == 0).all()
    assert np.isfinite(bound.terms_bpd).all()
    # From noise, x_s is sqrt(alpha_bar_s) x_0 with noise of variance 1 - alpha_bar_s, and its prior mean is 0.
    signal = alpha_bar[500] * x_0.square().mean((1, 2, 3)).numpy()
    beta_tilde = 1 - alpha_bar[500]
    variance = {
        "fixed_small": beta_tilde,
        "fixed_large": 1.0,
        "analytic": beta_tilde + alpha_bar[500] * 0.3,
        "learned_range": math.sqrt(beta_tilde),
    }[variance_type]
    expected = (math.log(variance / beta_tilde) - 1 + (beta_tilde + signal) / variance) / 2 / math.log(2)
    np.testing.assert_allclose(bound.terms_bpd[:, 0], expected, rtol=1e-9)
