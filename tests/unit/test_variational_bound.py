"""The measured variational bound against closed forms of Gaussian data, torch.distributions and the training loss."""

import copy
import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
from torch.distributions import Normal, kl_divergence

from ddpm_cars import DDPMCarsScheduler
from ddpm_cars.least_cost import expected_kl_nats
from ddpm_cars.likelihood import Bound, Likelihood, variational_bounds
from ddpm_cars.losses import vlb_bpd

from .scheduler_helpers import (
    ALPHA_BAR,
    T,
    calibration_of,
    exact,
    gaussian_mse,
    mean_of_step,
    noise_std,
    random_calibration,
)

BETAS = np.linspace(0.0001, 0.02, T)
WHITE = ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "analytic"]
CHAINS = {
    "all": list(range(T))[::-1],
    "leading": list(range(0, T, 20))[::-1],
    "trailing": list(range(99, T, 100))[::-1],
    "irregular": [999, 998, 600, 13, 12, 4, 0],
    "late": [700, 350, 2],
    "two": [999, 0],
    "one": [400],
}


def by_name(chains: dict[str, list[int]]) -> list:
    return [pytest.param(chain, id=name) for name, chain in chains.items()]


def pairs(chain: list[int]) -> list[tuple[int, int]]:
    return list(itertools.pairwise(chain))


def normal_images(c: float, *shape: int, seed: int = 0) -> torch.Tensor:
    """Pixels of N(0, c), float64."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * math.sqrt(c)
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def scheduler_of(variance_type: str, chain: list[int], c: float = 0.3, **config) -> DDPMCarsScheduler:
    """Set to a chain, and calibrated for the ideal denoiser of N(0, c I)."""
    scheduler = exact(variance_type, calibration_of(gaussian_mse(c)), **config)
    scheduler.set_timesteps(timesteps=chain)
    return scheduler


def measure(unet: Callable, images: torch.Tensor, *schedulers: DDPMCarsScheduler, **settings) -> Likelihood:
    named = {str(i): scheduler for i, scheduler in enumerate(schedulers)}
    return variational_bounds(unet, images, named, progress_bar=False, **settings)


def bound_of(unet: Callable, images: torch.Tensor, scheduler: DDPMCarsScheduler, **settings) -> Bound:
    return measure(unet, images, scheduler, **settings).bounds["0"]


class Network:
    """Keeps what it is shown, and says x_0_hat(x_t, t) in the words of `prediction_type`."""

    def __init__(self, x_0_hat: Callable, prediction_type: str = "epsilon", place: Callable | None = None):
        self.x_0_hat, self.prediction_type, self.place = x_0_hat, prediction_type, place
        self.seen: dict[int, torch.Tensor] = {}
        self.num_calls = 0

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert (t == t[0]).all()
        number = int(t[0])
        self.num_calls += 1
        self.seen[number] = x_t if number not in self.seen else torch.cat([self.seen[number], x_t])
        a, b = math.sqrt(ALPHA_BAR[number]), math.sqrt(1 - ALPHA_BAR[number])
        x_0_hat = self.x_0_hat(x_t, number)
        eps_hat = (x_t - a * x_0_hat) / b
        output = {"epsilon": eps_hat, "sample": x_0_hat, "v_prediction": a * eps_hat - b * x_0_hat}
        prediction = output[self.prediction_type]
        return prediction if self.place is None else torch.cat([prediction, self.place(x_t, number)], dim=1)


def ideal(c: float) -> Callable:
    """E(x_0 | x_t) of N(0, c I)."""
    return lambda x_t, t: x_t * math.sqrt(ALPHA_BAR[t]) * c / (ALPHA_BAR[t] * c + 1 - ALPHA_BAR[t])


def odd(x_t: torch.Tensor, t: int) -> torch.Tensor:
    """Some network that is ideal for nothing."""
    return 0.8 * torch.sin(3 * x_t + t)


def place_of(x_t: torch.Tensor, t: int) -> torch.Tensor:
    return torch.cos(5 * x_t - t)


def step_of(t: int, s: int, c: float = 0.3) -> SimpleNamespace:
    """The step from t to s, -1 for x_0, written out from the betas; also the true variances of N(0, c I)."""
    alpha_bar_t, alpha_bar_s = np.prod(1 - BETAS[: t + 1]), np.prod(1 - BETAS[: s + 1])
    alpha = np.prod(1 - BETAS[s + 1 : t + 1])
    beta, marginal_t, marginal_s = 1 - alpha, alpha_bar_t * c + 1 - alpha_bar_t, alpha_bar_s * c + 1 - alpha_bar_s
    return SimpleNamespace(
        beta=beta,
        beta_tilde=(1 - alpha_bar_s) / (1 - alpha_bar_t) * beta,
        x_0_weight=math.sqrt(alpha_bar_s) * beta / (1 - alpha_bar_t),
        x_t_weight=math.sqrt(alpha) * (1 - alpha_bar_s) / (1 - alpha_bar_t),
        alpha_bar_t=alpha_bar_t,
        alpha_bar_s=alpha_bar_s,
        # Of x_s given x_t, and of x_0 given x_t.
        true_variance=marginal_s * beta / marginal_t,
        x_0_variance=c * (1 - alpha_bar_t) / marginal_t,
    )


def variance_of(variance_type: str, step: SimpleNamespace) -> float:
    if variance_type == "analytic":
        return step.true_variance
    return step.beta if variance_type.startswith("fixed_large") else step.beta_tilde


def decoder_variance_of(variance_type: str, chain: list[int], c: float = 0.3) -> float:
    if variance_type == "analytic":
        return step_of(chain[-1], -1, c).x_0_variance
    return step_of(*chain[-2:]).beta_tilde if len(chain) > 1 else step_of(chain[-1], -1).beta


def kl_bpd(x_0: torch.Tensor, x_t: torch.Tensor, x_0_hat: torch.Tensor, step: SimpleNamespace, variance) -> np.ndarray:
    posterior = Normal(step.x_0_weight * x_0 + step.x_t_weight * x_t, math.sqrt(step.beta_tilde))
    model = Normal(step.x_0_weight * x_0_hat + step.x_t_weight * x_t, torch.as_tensor(variance).sqrt())
    return kl_divergence(posterior, model).mean((1, 2, 3)).numpy() / math.log(2)


def decoder_bpd(x_0: torch.Tensor, x_0_hat: torch.Tensor, variance) -> np.ndarray:
    model = Normal(x_0_hat, torch.as_tensor(variance).sqrt())
    below = torch.where(x_0 == -1, 0, model.cdf(x_0 - 1 / 255))
    above = torch.where(x_0 == 1, 1, model.cdf(x_0 + 1 / 255))
    return -torch.log2(above - below).mean((1, 2, 3)).numpy()


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


@pytest.mark.parametrize("variance_type", ["fixed_small", "analytic"])
def test_a_learned_variance_is_left_out_elsewhere(variance_type: str):
    x_0, scheduler = normal_images(0.3, 2, 3, 2, 2), scheduler_of(variance_type, CHAINS["irregular"])
    plain, doubled = (bound_of(Network(odd, place=place), x_0, scheduler) for place in (None, place_of))
    np.testing.assert_array_equal(plain.terms_bpd, doubled.terms_bpd)


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


def test_the_noise_is_standard_normal_and_of_its_own_for_every_image_and_timestep():
    network, x_0 = Network(odd), normal_images(0.3, 40, 3, 4, 4)
    bound_of(network, x_0, scheduler_of("fixed_small", CHAINS["irregular"]), batch_size=7)
    a, b = (np.sqrt(x).reshape(-1, 1, 1, 1, 1) for x in (ALPHA_BAR, 1 - ALPHA_BAR))
    eps = np.stack([(network.seen[t].numpy() - a[t] * x_0.numpy()) / b[t] for t in network.seen])
    assert scipy.stats.kstest(eps.ravel(), "norm").pvalue > 0.01
    rows = eps.reshape(-1, 48)
    assert np.abs(np.corrcoef(rows) - np.eye(len(rows))).max() < 0.8


def test_one_pass_gives_every_chain_what_it_would_have_alone():
    x_0 = normal_images(0.3, 5, 2, 3, 3)
    schedulers = [
        scheduler_of(variance_type, chain)
        for variance_type in ("fixed_small", "fixed_large", "analytic", "learned_range")
        for chain in (CHAINS["irregular"], CHAINS["trailing"], CHAINS["one"])
    ]
    together = Network(odd, place=place_of)
    bounds = measure(together, x_0, *schedulers, batch_size=2).bounds
    union = {*CHAINS["irregular"], *CHAINS["trailing"], *CHAINS["one"]}
    assert together.num_calls == 3 * len(union)
    for scheduler, bound in zip(schedulers, bounds.values(), strict=True):
        alone = bound_of(Network(odd, place=place_of), x_0, scheduler, batch_size=2)
        np.testing.assert_array_equal(alone.timesteps, bound.timesteps)
        np.testing.assert_array_equal(alone.terms_bpd, bound.terms_bpd)
        np.testing.assert_array_equal(alone.prior_bpd, bound.prior_bpd)


@pytest.mark.parametrize("variance_type", ["analytic", "learned_range"])
def test_images_can_be_shared_between_processes(variance_type: str):
    x_0, scheduler = normal_images(0.3, 10, 3, 2, 2).float(), scheduler_of(variance_type, CHAINS["irregular"])
    network = Network(odd, place=place_of)
    whole = measure(network, x_0, scheduler, seed=3)
    rows = [[0, 3, 5, 6], [1, 2, 4, 7, 8, 9]]
    parts = [measure(network, x_0[part], scheduler, indices=part, seed=3) for part in rows]
    order = np.argsort(np.concatenate(rows))
    for values in (lambda part: part.eps_mse, lambda part: part.bounds["0"].terms_bpd):
        np.testing.assert_array_equal(np.concatenate([values(part) for part in parts])[order], values(whole))
    prior = np.concatenate([part.bounds["0"].prior_bpd for part in parts])[order]
    np.testing.assert_array_equal(prior, whole.bounds["0"].prior_bpd)
    assert (measure(network, x_0, scheduler, seed=4).eps_mse != whole.eps_mse).all()


def test_a_real_network_gives_the_same_in_any_batches(make_unet: Callable):
    x_0 = normal_images(0.3, 7, 3, 8, 8).float()
    unet = make_unet(out_channels=6)
    schedulers = [scheduler_of(kind, CHAINS["irregular"]) for kind in ("fixed_large", "learned_range")]
    one, many = (measure(unet, x_0, *schedulers, batch_size=size).bounds for size in (1, 64))
    for name, bound in one.items():
        np.testing.assert_allclose(bound.terms_bpd, many[name].terms_bpd, rtol=1e-5)
        assert bound.bpd == pytest.approx(many[name].bpd, rel=1e-6)
        assert bound.terms_bpd.dtype == np.float64


def test_classes_reach_the_network_with_their_images(make_unet: Callable):
    x_0 = normal_images(0.3, 5, 3, 8, 8).float()
    unet, scheduler = make_unet(num_class_embeds=4), scheduler_of("fixed_large", [500, 20, 3])
    labels = torch.tensor([0, 1, 2, 3, 1])
    together = bound_of(unet, x_0, scheduler, class_labels=labels, batch_size=2)
    for i in range(5):
        alone = bound_of(unet, x_0[i : i + 1], scheduler, class_labels=labels[i : i + 1], indices=[i])
        np.testing.assert_allclose(together.terms_bpd[i], alone.terms_bpd[0], rtol=1e-5)
        other = bound_of(unet, x_0[i : i + 1], scheduler, class_labels=(labels[i : i + 1] + 1) % 4, indices=[i])
        assert (np.abs(together.terms_bpd[i] - other.terms_bpd[0]) > 1e-6).all()


@pytest.mark.parametrize("variance_type", ["fixed_large", "analytic", "learned_range"])
def test_networks_that_say_the_same_in_other_words_have_the_same_bound(variance_type: str):
    x_0, chain = normal_images(0.3, 3, 3, 4, 4), CHAINS["irregular"]
    of_epsilon, *others = (
        bound_of(Network(odd, kind, place_of), x_0, scheduler_of(variance_type, chain, prediction_type=kind))
        for kind in ("epsilon", "sample", "v_prediction")
    )
    for other in others:
        np.testing.assert_allclose(other.terms_bpd, of_epsilon.terms_bpd, rtol=1e-8)


def test_float32_images_have_the_bound_of_float64_ones():
    x_0 = normal_images(0.3, 3, 3, 4, 4)
    schedulers = [scheduler_of(variance_type, CHAINS["irregular"]) for variance_type in (*WHITE, "learned_range")]
    narrow, wide = (measure(Network(odd, place=place_of), x, *schedulers).bounds for x in (x_0.float(), x_0))
    for name, bound in narrow.items():
        np.testing.assert_allclose(bound.terms_bpd, wide[name].terms_bpd, rtol=2e-3)


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large", "analytic", "learned_range"])
def test_zero_terminal_snr_starts_without_a_loss(variance_type: str, prediction_type: str):
    scheduler = DDPMCarsScheduler(
        variance_type=variance_type, prediction_type=prediction_type, rescale_betas_zero_snr=True, clip_sample=False
    )
    alpha_bar = scheduler._alpha_bar
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


def test_means_and_standard_errors_are_over_images():
    x_0, scheduler = normal_images(0.3, 6, 1, 4, 4), scheduler_of("fixed_large", CHAINS["irregular"])
    bound = bound_of(Network(odd), x_0, scheduler)
    total = bound.prior_bpd + bound.terms_bpd.sum(1)
    np.testing.assert_allclose(bound.total_bpd, total, rtol=1e-14)
    np.testing.assert_allclose(bound.prior_bpd + bound.kl_bpd + bound.decoder_bpd, total, rtol=1e-14)
    assert bound.bpd == pytest.approx(np.mean(total), rel=1e-14)
    assert bound.bpd_std_error == pytest.approx(scipy.stats.sem(total), rel=1e-12)
    assert math.isnan(bound_of(Network(odd), x_0[:1], scheduler).bpd_std_error)


@pytest.mark.parametrize("variance_type", ["fixed_small", "analytic", "learned_range"])
def test_schedulers_and_images_are_left_as_they_were(variance_type: str):
    scheduler = scheduler_of(variance_type, CHAINS["irregular"], max_last_noise_grey_levels=0.5)
    x_0 = normal_images(0.3, 2, 1, 2, 2)
    before = copy.deepcopy([scheduler.config, scheduler.timesteps, scheduler._steps, set(scheduler._constants), x_0])
    other = scheduler_of("fixed_large", [77, 5])
    measure(Network(odd, place=place_of), x_0, scheduler, other)
    after = [scheduler.config, scheduler.timesteps, scheduler._steps, set(scheduler._constants), x_0]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old, new) if isinstance(old, torch.Tensor) else old == new


def test_the_bound_on_the_last_noise_is_for_pictures_only():
    x_0 = normal_images(0.3, 2, 1, 2, 2)
    free, bounded = (
        bound_of(Network(odd), x_0, scheduler_of("analytic", CHAINS["late"], max_last_noise_grey_levels=levels))
        for levels in (None, 0.1)
    )
    np.testing.assert_array_equal(free.terms_bpd, bounded.terms_bpd)


PIXELS = normal_images(0.3, 2, 3, 6, 10).float()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (PIXELS[0], r"shape \(3, 6, 10\)"),
        (PIXELS[:0], r"shape \(0, 3, 6, 10\)"),
        (PIXELS + 1e-3, "8-bit"),
        (PIXELS + 2 / 127.5 * 128, "8-bit"),
        (PIXELS * float("nan"), "nan"),
        (torch.full((2, 3, 6, 10), 128, dtype=torch.uint8), "uint8"),
    ],
)
def test_images_that_are_no_pixels_are_refused(images: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        measure(Network(odd), images, scheduler_of("fixed_small", [5, 0]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_labels": torch.zeros(3, dtype=torch.int64)}, "class_labels has 3 values for 2 images"),
        ({"indices": [4]}, "indices has 1 values for 2 images"),
    ],
)
def test_what_is_given_per_image_must_be_as_many(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        measure(Network(odd), PIXELS, scheduler_of("fixed_small", [5, 0]), **settings)


@pytest.mark.parametrize(
    ("variance_type", "cure"), [("spectral", "analytic"), ("learned", "fixed_small"), ("unheard_of", "fixed_small")]
)
def test_variances_without_a_bound_are_refused_with_a_cure(variance_type: str, cure: str):
    scheduler, network = exact(variance_type, random_calibration()), Network(odd)
    with pytest.raises(ValueError, match=f"{variance_type}.* use '{cure}'"):
        measure(network, PIXELS, scheduler_of("fixed_small", [5, 0]), scheduler)
    assert network.num_calls == 0
    with pytest.raises(ValueError, match=f"{variance_type}.* use '{cure}'"):
        expected_kl_nats(scheduler, 5, 4, 0.1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"prediction_type": "sample"}, "prediction_type"),
        ({"clip_sample": True}, "clip_sample"),
        ({"beta_end": 0.03}, "noise levels"),
    ],
)
def test_schedulers_for_other_networks_are_refused(config: dict, message: str):
    other = DDPMCarsScheduler(**{"clip_sample": False, **config})
    with pytest.raises(ValueError, match=f"'0' and '1' differ in .*{message}"):
        measure(Network(odd), PIXELS, scheduler_of("fixed_small", [5, 0]), other)
    with pytest.raises(ValueError, match="empty"):
        measure(Network(odd), PIXELS)


def test_a_prediction_of_the_noise_where_there_is_nothing_else_is_refused():
    scheduler = DDPMCarsScheduler(rescale_betas_zero_snr=True)
    with pytest.raises(ValueError, match=r"timestep 999.*v or x_0"):
        measure(Network(odd), PIXELS, scheduler)
    scheduler.set_timesteps(timesteps=[998, 0])
    assert np.isfinite(bound_of(lambda x_t, t: x_t, PIXELS, scheduler).terms_bpd).all()


@pytest.mark.parametrize("num_channels", [2, 9])
def test_outputs_of_other_channels_are_refused(num_channels: int):
    with pytest.raises(ValueError, match=f"{num_channels} channels"):
        measure(lambda x_t, t: x_t[:, :1].repeat(1, num_channels, 1, 1), PIXELS, scheduler_of("fixed_small", [5, 0]))


@pytest.mark.parametrize("chain", [[5, 0], [5]])
def test_a_network_without_a_variance_has_no_learned_bound(chain: list[int]):
    with pytest.raises(ValueError, match=r"learned_range.*fixed_small"):
        measure(Network(odd), PIXELS, scheduler_of("learned_range", chain))
