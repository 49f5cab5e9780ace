"""The figures of a set of images, and copies of training images planted among them."""

import numpy as np
import pytest
import torch

from ddpm_cars.evaluation.comparison import Reference, look_for_copies
from ddpm_cars.evaluation.distances import Moments, frechet_distance, kernel_distance
from ddpm_cars.evaluation.neighbours import precision_recall_density_coverage


def pictures(num_images: int, seed: int, std: float = 40.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(127, std, (num_images, 8, 8, 3))
    return noise.round().clip(0, 255).astype(np.uint8)


def vectors(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images[:, ::2, ::4].reshape(len(images), -1) / 255).float()


@pytest.fixture(scope="module")
def reference() -> Reference:
    images = pictures(300, 0)
    return Reference.of(vectors(images[:200]), images)


def test_figures_are_taken_against_the_features_of_the_reference(reference: Reference):
    images = pictures(60, 1, std=20.0)
    figures, power = reference.compare(images, vectors(images), seed=3)
    expected = frechet_distance(Moments.of(vectors(images)), Moments.of(reference.features))
    assert figures["frechet_distance"] == pytest.approx(expected, rel=1e-5)
    kernel = kernel_distance(vectors(images), reference.features, seed=3)
    assert (figures["kernel_distance"], figures["kernel_distance_std"]) == pytest.approx(kernel, rel=1e-5)
    # Of reference features as many as there are images.
    shares = precision_recall_density_coverage(reference.features[:60], vectors(images), 5)
    assert {name: figures[name] for name in shares} == pytest.approx(shares, rel=1e-5)
    # Half the standard deviation is a quarter of the power at every frequency.
    assert figures["contrast"] == pytest.approx(0.5, rel=0.02)
    assert figures["spectrum_error_octaves"] == pytest.approx(2, abs=0.1)
    assert np.mean(np.array(power) / reference.power) == pytest.approx(0.25, rel=0.05)


def test_pictures_like_the_reference_are_nearer_in_every_figure(reference: Reference):
    alike, _ = reference.compare(pictures(60, 2), vectors(pictures(60, 2)), seed=0)
    flat, _ = reference.compare(pictures(60, 2, std=20.0), vectors(pictures(60, 2, std=20.0)), seed=0)
    for name in ("frechet_distance", "kernel_distance", "spectrum_error_octaves"):
        assert alike[name] < flat[name], name
    assert alike["recall"] > flat["recall"]
    assert abs(alike["contrast"] - 1) < 0.02


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


def test_without_unseen_pictures_neighbours_are_the_same_and_no_share_is_told():
    generator = torch.Generator().manual_seed(1)
    training, drawn = ({"features": torch.randn(n, 6, generator=generator)} for n in (50, 10))
    found, neighbours = look_for_copies(drawn, training, None)
    assert found == {}
    _, told = look_for_copies(drawn, training, {"features": torch.randn(200, 6, generator=generator)})
    for with_unseen, without in zip(told["features"], neighbours["features"], strict=True):
        assert np.array_equal(with_unseen, without)
