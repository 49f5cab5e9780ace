"""What the measured variational bound does not depend on, what it is an average of, and what is refused."""

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch

from ddpm_cars import DDPMCarsScheduler
from ddpm_cars.diffusion.bound import expected_kl_nats
from tests.support.scheduler_helpers import ALPHA_BAR, exact, random_calibration
from tests.support.variational_bound_helpers import (
    CHAINS,
    WHITE,
    Network,
    bound_of,
    measure,
    normal_images,
    odd,
    place_of,
    scheduler_of,
)


@pytest.mark.parametrize("variance_type", ["fixed_small", "analytic"])
def test_a_learned_variance_is_left_out_elsewhere(variance_type: str):
    x_0, scheduler = normal_images(0.3, 2, 3, 2, 2), scheduler_of(variance_type, CHAINS["irregular"])
    plain, doubled = (bound_of(Network(odd, place=place), x_0, scheduler) for place in (None, place_of))
    np.testing.assert_array_equal(plain.terms_bpd, doubled.terms_bpd)


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

    def state() -> list:
        return [scheduler.config, scheduler.timesteps, scheduler.noise_std.tolist(), x_0]

    before = copy.deepcopy(state())
    other = scheduler_of("fixed_large", [77, 5])
    measure(Network(odd, place=place_of), x_0, scheduler, other)
    for old, new in zip(before, state(), strict=True):
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
        (torch.cat([PIXELS[:1], PIXELS[1:] + 1e-3]), "8-bit"),
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
