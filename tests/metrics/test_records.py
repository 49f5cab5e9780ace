"""The metrics of a set of images beside real ones."""

import numpy as np
import pytest
import torch

from ddpm_cars.metrics.distances import Moments, frechet_distance, kernel_distance
from ddpm_cars.metrics.neighbours import precision_recall_density_coverage_with_errors
from ddpm_cars.metrics.records import METRICS, Comparison, Reference, measure


def make_images(num_images: int, seed: int, std: float = 40.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(127, std, (num_images, 8, 8, 3))
    return noise.round().clip(0, 255).astype(np.uint8)


def vectors(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images[:, ::2, ::4].reshape(len(images), -1) / 255).float()


@pytest.fixture(scope="module")
def reference() -> Reference:
    images = make_images(400, 0)
    return Reference.of(vectors(images[:350]), images)


def beside(reference: Reference, images: np.ndarray, seed: int = 0) -> Comparison:
    return Comparison(reference, images, vectors(images), seed)


def test_every_metric_is_computed_with_its_error_and_nothing_else(reference: Reference):
    figures = measure(beside(reference, make_images(300, 1)))
    errors = {"frechet_distance_std_error", "kernel_distance_std"}
    errors |= {f"{name}_std_error" for name in ("precision", "recall", "density", "coverage")}
    assert figures.keys() == {metric.key for metric in METRICS} | errors
    assert errors == {metric.error_key for metric in METRICS} & figures.keys()
    assert all(type(value) is float for value in figures.values())


def test_figures_are_taken_against_the_features_of_the_reference(reference: Reference):
    images = make_images(300, 1, std=20.0)
    comparison = beside(reference, images, seed=3)
    figures = measure(comparison)
    expected = frechet_distance(Moments.of(vectors(images)), Moments.of(reference.features))
    assert figures["frechet_distance"] == pytest.approx(expected, rel=1e-12)
    kernel = kernel_distance(vectors(images), reference.features, seed=3)
    assert (figures["kernel_distance"], figures["kernel_distance_std"]) == kernel
    # Of as many reference features as there are images.
    shares = precision_recall_density_coverage_with_errors(reference.features[:300], vectors(images), 5)
    assert {name: (figures[name], figures[f"{name}_std_error"]) for name in shares} == shares
    # Half the standard deviation is a quarter of the power at every frequency.
    assert figures["contrast"] == pytest.approx(0.5, rel=0.02)
    assert figures["spectrum_error_octaves"] == pytest.approx(2, abs=0.1)
    assert np.mean(comparison.power / reference.power) == pytest.approx(0.25, rel=0.05)


def test_shares_of_neighbours_are_not_measured_on_few_images(reference: Reference):
    shares = {"precision", "recall", "density", "coverage"}
    assert {metric.key for metric in METRICS if metric.min_images == 300} == shares
    figures = measure(beside(reference, make_images(299, 1)))
    assert not {name for name in figures if name.removesuffix("_std_error") in shares}
    assert {"frechet_distance", "contrast"} <= figures.keys()


def test_images_like_the_reference_are_better_than_flat_ones(reference: Reference):
    alike, flat = (measure(beside(reference, make_images(300, 2, std=std))) for std in (40.0, 20.0))
    by_key = {metric.key: metric for metric in METRICS}
    for key in ("frechet_distance", "kernel_distance", "recall", "contrast", "spectrum_error_octaves"):
        assert by_key[key].sort_key(alike[key]) < by_key[key].sort_key(flat[key]), key
    assert alike["contrast"] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("best", "better", "worse"), [("lower", -2, 1), ("higher", 3, 1), ("at 1", 0.9, 1.3)])
def test_the_sort_key_is_lower_the_better_a_value_is(best: str, better: float, worse: float):
    metric = next(metric for metric in METRICS if metric.best == best)
    assert metric.sort_key(better) < metric.sort_key(worse)
