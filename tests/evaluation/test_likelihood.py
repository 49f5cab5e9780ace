"""The entries "likelihood" and "eps_mse" of metrics.json, from held-out images shared by processes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from ddpm_cars import DDPMCarsScheduler
from ddpm_cars.data.pictures import Pictures
from ddpm_cars.diffusion.bound import least_cost_timesteps, variational_bounds
from ddpm_cars.diffusion.calibration import calibrate
from ddpm_cars.evaluation.likelihood import bounds_to_measure, measure_bounds


def gathered_by_two(num_rows: int, work: Callable[[range], Any]) -> list[Any]:
    """Share rows as two processes do, of which the first has one row more."""
    half = -(-num_rows // 2)
    return [work(range(half)), work(range(half, num_rows))]


def test_every_variance_that_a_model_samples_with_has_every_chain():
    scheduler = DDPMCarsScheduler(num_train_timesteps=20, timestep_spacing="trailing", variance_type="fixed_large")
    chains = [("all", 20), ("trailing", 5), ("least cost", 5), ("trailing", 9), ("least cost", 9)]
    kinds = ["fixed_small", "fixed_large", "analytic"]
    assert bounds_to_measure(scheduler.config, [5, 9]) == [(kind, *chain) for kind in kinds for chain in chains]
    learned = DDPMCarsScheduler(num_train_timesteps=20, variance_type="learned_range")
    assert bounds_to_measure(learned.config, ()) == [(kind, "all", 20) for kind in ("learned_range", *kinds)]


def test_bounds_of_some_held_out_images_are_those_of_one_pass_over_them(
    make_unet: Callable, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ddpm_cars.evaluation.likelihood.gathered", gathered_by_two)
    images = np.random.default_rng(1).integers(0, 256, (9, 8, 8, 3), np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])
    held_out = Pictures(images, labels, ("a", "b", "c"), np.arange(9, dtype=np.uint64), "", {})
    unet = make_unet(num_class_embeds=3, out_channels=6)
    x_0 = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    scheduler = DDPMCarsScheduler(num_train_timesteps=20, beta_end=0.5, variance_type="learned_range")
    calibrate(unet, x_0, scheduler, 20, progress_bar=False, class_labels=torch.from_numpy(labels))
    keys = bounds_to_measure(scheduler.config, [4])
    records, eps_mse = measure_bounds(unet, held_out, scheduler.config, keys, 5, 2, 3)

    analytic = DDPMCarsScheduler.from_config(scheduler.config, variance_type="analytic")
    chains = {"all": list(range(20))[::-1], "leading": [15, 10, 5, 0], "least cost": least_cost_timesteps(analytic, 4)}
    chosen = np.random.default_rng(3).permutation(9)[:5]
    named = {}
    for kind, chain, steps in keys:
        named[str((kind, chain, steps))] = one = DDPMCarsScheduler.from_config(scheduler.config, variance_type=kind)
        one.set_timesteps(timesteps=chains[chain])
    whole = variational_bounds(
        unet, x_0[chosen], named, class_labels=torch.from_numpy(labels[chosen]), seed=3, progress_bar=False
    )
    close = {"rel": 1e-4}
    for key, record in zip(keys, records, strict=True):
        bound = whole.bounds[str(key)]
        assert (record["variance_type"], record["chain"], record["num_inference_steps"]) == key
        assert record["num_images"] == 5
        total = bound.prior_bpd + bound.terms_bpd.sum(1)
        assert record["image_bpd"] == pytest.approx(total, **close)
        assert record["bpd"] == pytest.approx(total.mean(), **close)
        assert record["bpd_std_error"] == pytest.approx(scipy.stats.sem(total), **close)
        assert record["prior_bpd"] == pytest.approx(bound.prior_bpd.mean(), **close)
        assert record["kl_bpd"] == pytest.approx(bound.terms_bpd[:, :-1].sum(1).mean(), **close)
        assert record["decoder_bpd"] == pytest.approx(bound.terms_bpd[:, -1].mean(), **close)
        assert record["terms"]["timesteps"] == chains[key[1]]
        assert record["terms"]["bpd"] == pytest.approx(bound.terms_bpd.mean(0), **close)
    assert eps_mse["num_images"] == 5
    assert eps_mse["timesteps"] == list(range(20))
    assert eps_mse["eps_mse"] == pytest.approx(whole.eps_mse.mean(0), **close)
    assert eps_mse["eps_mse_std_error"] == pytest.approx(scipy.stats.sem(whole.eps_mse), **close)
