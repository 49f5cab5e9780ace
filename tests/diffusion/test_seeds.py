"""The values that every run, image and evaluation depends on, which must stay what they are."""

import itertools

import numpy as np
import torch

from ddpm_cars.diffusion.seeds import noise_of_rows, permutation, seeded_generators, step_seed


def test_step_seeds_differ_and_stay():
    seeds = {step_seed(*path) for path in itertools.product((0, 1), (0, 1, 2), (0, 1))} | {step_seed(0, 0)}
    assert len(seeds) == 13
    assert all(0 <= seed < 2**63 for seed in seeds)
    # A change here would change every run.
    assert step_seed(7, 11) == 7773493329791651165


def test_generators_follow_the_number_of_the_image():
    drawn = [torch.randn(2, generator=generator).tolist() for generator in seeded_generators(10, 3, 5)]
    expected = [torch.randn(2, generator=torch.Generator().manual_seed(seed)).tolist() for seed in (13, 14)]
    assert drawn == expected


def test_orders_stay():
    # A change here would change the epochs of every run.
    assert permutation(7, 5, 1).tolist() == [4, 2, 0, 6, 5, 3, 1]
    assert permutation(6, 9).tolist() == np.random.default_rng(9).permutation(6).tolist() == [3, 5, 2, 4, 0, 1]


def test_a_row_of_noise_depends_on_its_seed_alone():
    rows = noise_of_rows((2, 3), [4, 9, 4])
    assert torch.equal(rows[0], torch.randn(2, 3, generator=torch.Generator().manual_seed(4)))
    assert torch.equal(rows[1], torch.randn(2, 3, generator=torch.Generator().manual_seed(9)))
    assert torch.equal(rows[2], rows[0])
