"""Copies of training images that are planted among generated ones."""

import numpy as np
import torch

from ddpm_cars.metrics.neighbours import look_for_copies


def test_planted_copies_are_counted_and_found_in_each_space():
    generator = torch.Generator().manual_seed(0)
    training, drawn, unseen = ({"features": torch.randn(n, 6, generator=generator)} for n in (100, 40, 400))
    for each in (training, drawn, unseen):
        each["pixels"] = torch.randn(len(each["features"]), 5, generator=generator)
    copied = torch.arange(8) * 7
    drawn["features"][:8] = training["features"][copied]
    found, neighbours = look_for_copies(drawn, training, unseen)
    assert found["features"]["share"] >= 8 / 40 > 0.1 > found["pixels"]["share"]
    assert found["features"]["expected"] == found["pixels"]["expected"] == 0.01
    distances, indices = neighbours["features"]
    assert distances.shape == indices.shape == (40, 6)
    assert indices[:8, 0].tolist() == copied.tolist()
    assert distances[:8, 0].tolist() == [0.0] * 8
    assert not set(distances[:, 0].tolist()) & set(neighbours["pixels"][0][:, 0].tolist())


def test_without_unseen_images_neighbours_are_the_same_and_no_share_is_told():
    generator = torch.Generator().manual_seed(1)
    training, drawn = ({"features": torch.randn(n, 6, generator=generator)} for n in (50, 10))
    found, neighbours = look_for_copies(drawn, training, None)
    assert found == {}
    _, told = look_for_copies(drawn, training, {"features": torch.randn(200, 6, generator=generator)})
    for with_unseen, without in zip(told["features"], neighbours["features"], strict=True):
        assert np.array_equal(with_unseen, without)
