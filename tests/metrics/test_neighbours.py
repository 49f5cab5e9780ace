"""Nearest neighbours, precision, recall, density, coverage and copies against brute force and counting by hand."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ddpm_cars.metrics import neighbours
from ddpm_cars.metrics.neighbours import (
    near_copies,
    nearest,
    precision_recall_density_coverage,
    precision_recall_density_coverage_with_errors,
)

Points = torch.Tensor


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Points:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def on_a_line(*values: float) -> Points:
    return torch.tensor(values, dtype=torch.float64)[:, None]


@pytest.fixture
def set_block_rows(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Make blocks hold this many rows of vectors of this length."""

    def set_rows(num_rows: int, length: int) -> None:
        monkeypatch.setattr(neighbours, "_BLOCK_VALUES", num_rows * (length + 4096))

    return set_rows


def all_distances(x: Points, y: Points) -> np.ndarray:
    a, b = x.double().numpy(), y.double().numpy()
    return np.sqrt(np.square(a[:, None] - b[None]).sum(-1))


def assert_nearest(x: Points, y: Points, num_neighbours: int) -> None:
    distances, indices = nearest(x, y, num_neighbours)
    brute = all_distances(x, y)
    expected = np.argsort(brute, axis=1, kind="stable")[:, :num_neighbours]
    assert (distances.dtype, indices.dtype) == (torch.float64, torch.int64)
    assert distances.shape == indices.shape == (len(x), num_neighbours)
    np.testing.assert_array_equal(indices.numpy(), expected)
    np.testing.assert_allclose(distances.numpy(), np.take_along_axis(brute, expected, 1), rtol=1e-12)


def copies_among(generated: Points, training: Points, unseen: Points, quantile: float) -> dict[str, float]:
    return near_copies(*(nearest(points, training)[0][:, 0] for points in (generated, unseen)), quantile)


def brute_prdc(real: Points, generated: Points, k: int) -> dict[str, float]:
    """Follow the formulas of both papers word by word."""
    across = all_distances(real, generated)
    real_radii, generated_radii = (np.sort(all_distances(z, z), axis=1)[:, k] for z in (real, generated))
    n, m = across.shape
    in_real = [[across[i, j] <= real_radii[i] for i in range(n)] for j in range(m)]
    return {
        "precision": sum(any(balls) for balls in in_real) / m,
        "recall": sum(any(across[i, j] <= generated_radii[j] for j in range(m)) for i in range(n)) / n,
        "density": sum(sum(balls) for balls in in_real) / (k * m),
        "coverage": sum(any(in_real[j][i] for j in range(m)) for i in range(n)) / n,
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("num_neighbours", [1, 3, 30])
def test_the_nearest_are_those_of_brute_force(num_neighbours: int, dtype: torch.dtype):
    assert_nearest(normal(0, 40, 6, dtype=dtype), normal(1, 30, 6, dtype=dtype) * 2 + 1, num_neighbours)


@pytest.mark.parametrize("num_rows", [0, 1, 2, 7, 29, 30, 31])
@pytest.mark.parametrize("num_neighbours", [1, 3, 30])
def test_blocks_change_nothing(num_neighbours: int, num_rows: int, set_block_rows: Callable[[int, int], None]):
    set_block_rows(num_rows, 6)
    assert_nearest(normal(0, 40, 6), normal(1, 30, 6), num_neighbours)


@pytest.mark.parametrize("num_rows", [2, 100])
def test_of_equal_distances_the_lower_index_is_first(num_rows: int, set_block_rows: Callable[[int, int], None]):
    set_block_rows(num_rows, 1)
    references = on_a_line(9, 4, 7, 5, 4, 9, 5, 3)
    distances, indices = nearest(on_a_line(5, 4, 6), references, 4)
    assert indices.tolist() == [[3, 6, 1, 4], [1, 4, 3, 6], [2, 3, 6, 1]]
    assert distances.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_copies_are_at_exactly_0_far_from_the_origin_too(dtype: torch.dtype):
    references = normal(0, 200, 50, dtype=dtype) * 0.01 + 300
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    distances, indices = nearest(references[order], references, 2)
    assert torch.equal(indices[:, 0], order)
    assert not distances[:, 0].any()
    assert distances[:, 1].min() > 0


def test_neighbours_that_differ_by_less_than_the_rounding_of_squares_are_told_apart():
    # Squares of 1 round by 1e-16, and those of these distances are 1e-20.
    references = torch.cat([on_a_line(-1, 1), on_a_line(*(1e-10 * i for i in range(5)))])
    distances, indices = nearest(references[2:], references)
    assert indices[:, 0].tolist() == [2, 3, 4, 5, 6]
    assert not distances.any()
    distances, indices = nearest(on_a_line(2.2e-10), references, 3)
    assert indices.tolist() == [[4, 5, 3]]
    np.testing.assert_allclose(distances[0], [0.2e-10, 0.8e-10, 1.2e-10], rtol=1e-5)


def test_bad_numbers_and_lengths_of_vectors_are_named():
    x, y = normal(0, 8, 3), normal(1, 5, 3)
    for number in (0, -1, 6):
        with pytest.raises(ValueError, match=f"num_neighbours is {number}; there are 5 vectors to choose from"):
            nearest(x, y, number)
    message = "The vectors have 3 and 2 values; both sets need as many"
    with pytest.raises(ValueError, match=message):
        nearest(x, y[:, :2])
    with pytest.raises(ValueError, match=r"both sets need as many"):
        precision_recall_density_coverage(x, x[:, :2])
    for sets in ((x, y), (y, x)):
        with pytest.raises(ValueError, match="There are 5 vectors; 5 neighbours take 6 or more"):
            precision_recall_density_coverage(*sets)
    precision_recall_density_coverage(x[:6], x[2:])


@pytest.mark.parametrize("num_rows", [2, 7, 1000])
@pytest.mark.parametrize(
    ("num_real", "num_generated", "k", "scale"), [(40, 40, 5, 1.0), (30, 50, 3, 0.4), (50, 20, 1, 1.5), (6, 9, 5, 2.0)]
)
def test_quality_and_variety_are_those_of_the_papers(
    num_real: int, num_generated: int, k: int, scale: float, num_rows: int, set_block_rows: Callable[[int, int], None]
):
    set_block_rows(num_rows, 3)
    real, generated = normal(0, num_real, 3), normal(1, num_generated, 3) * scale + 0.5
    expected = brute_prdc(real, generated, k)
    assert 0 < expected["precision"] < 1 or 0 < expected["recall"] < 1
    assert precision_recall_density_coverage(real, generated, k) == pytest.approx(expected, rel=1e-12)


def test_float32_vectors_far_from_the_origin_are_measured_in_float64():
    real, generated = (normal(seed, 60, 4, dtype=torch.float32) * 0.5 + 1000 for seed in (0, 1))
    got = precision_recall_density_coverage(real, generated, 3)
    assert got == pytest.approx(brute_prdc(real, generated, 3), rel=1e-12)


def test_sets_far_apart_have_nothing_in_common():
    got = precision_recall_density_coverage(normal(0, 30, 3), normal(1, 30, 3) + 100)
    assert got == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


@pytest.mark.parametrize("k", [1, 5])
def test_a_set_is_like_itself_and_covers_itself(k: int):
    same = normal(0, 30, 3)
    got = precision_recall_density_coverage(same, same, k)
    assert (got["precision"], got["recall"], got["coverage"]) == (1, 1, 1)
    # Every ball holds its centre and k neighbours.
    assert got["density"] == pytest.approx((k + 1) / k, rel=1e-12)


def test_the_same_distribution_has_a_density_of_about_1():
    got = precision_recall_density_coverage(normal(0, 1500, 4), normal(1, 1500, 4))
    assert got["density"] == pytest.approx(1, abs=0.05)
    # Of a ball's 5 neighbours and as many of the other set, all nearer ones are of its own in 1 of 2^5.
    assert got["coverage"] == pytest.approx(1 - 2**-5, abs=0.015)


def test_half_of_the_real_ones_are_covered():
    real = on_a_line(0, 1, 2, 100, 101, 102)
    got = precision_recall_density_coverage(real, on_a_line(0, 1, 2), 2)
    # Radii are 2, 1 and 2: all three are in all three balls, whose borders belong to them.
    assert got == {"precision": 1, "recall": 0.5, "density": 1.5, "coverage": 0.5}


def test_half_of_the_generated_ones_are_like_real_ones():
    generated = on_a_line(0, 1, 2, 100, 101, 102)
    got = precision_recall_density_coverage(on_a_line(0, 1, 2), generated, 2)
    assert got == {"precision": 0.5, "recall": 1, "density": 0.75, "coverage": 1}


@pytest.mark.parametrize("offset", [0.0, 0.3, 1e3])
def test_rounding_leaves_borders_within_their_balls(offset: float):
    line = on_a_line(*(offset + 0.1 * i for i in range(60)))
    got = precision_recall_density_coverage(line, line[::2], 1)
    # A ball of a real one reaches both neighbours, 0.1 away; only the first of the line has but one.
    assert (got["precision"], got["recall"], got["coverage"]) == (1, 1, 1)
    assert got["density"] == pytest.approx((30 * 3 - 1) / 30)


@pytest.mark.parametrize("num_rows", [7, 1000])
@pytest.mark.parametrize(("num_real", "num_generated"), [(50, 45), (30, 83)])
def test_errors_are_those_of_the_jackknife_word_by_word(
    num_real: int, num_generated: int, num_rows: int, set_block_rows: Callable[[int, int], None]
):
    set_block_rows(num_rows, 3)
    real, generated = normal(0, num_real, 3), normal(1, num_generated, 3) * 1.2 + 0.8
    got = precision_recall_density_coverage_with_errors(real, generated, 4)
    groups = np.array_split(np.arange(num_generated), 20)
    parts = [brute_prdc(real, generated[np.delete(np.arange(num_generated), group)], 4) for group in groups]
    for name, value in brute_prdc(real, generated, 4).items():
        expected = np.sqrt(19 * np.var([part[name] for part in parts]))
        assert expected > {"precision": 1 / num_generated, "density": 0.01}.get(name, 1 / num_real)
        assert got[name] == pytest.approx((value, expected), rel=1e-9)


@pytest.mark.parametrize(("length", "scale"), [(3, 1.0), (12, 0.8)])
def test_errors_are_the_spread_over_independent_draws(length: int, scale: float):
    real = normal(0, 150, length)
    draws = [
        precision_recall_density_coverage_with_errors(real, normal(seed, 150, length) * scale + 0.2)
        for seed in range(1, 81)
    ]
    ratio = {}
    for name in draws[0]:
        values, errors = np.array([draw[name] for draw in draws]).T
        ratio[name] = np.sqrt(np.square(errors).mean()) / values.std(ddof=1)
    # A spread of 80 draws is known to a twelfth.
    assert all(0.75 < ratio[name] < 1.3 for name in ("precision", "density")), ratio
    assert all(0.85 < ratio[name] < 2.3 for name in ("recall", "coverage")), ratio


def test_a_share_of_1_has_an_error_and_images_that_are_all_alike_show_in_density_and_recall():
    # Images that vary half as much as real ones: each is in the balls of many, which are large with many features.
    got = precision_recall_density_coverage_with_errors(normal(0, 200, 64), normal(1, 200, 64) * 0.5)
    assert got["precision"] == got["coverage"] == (1, 1 / 200)
    assert got["density"][0] > 10
    assert got["recall"][0] < 0.05


def test_errors_take_two_vectors_a_group():
    points = normal(0, 40, 2)
    assert precision_recall_density_coverage_with_errors(points, points)["precision"] == (1, 1 / 40)
    with pytest.raises(ValueError, match="There are 39 vectors for 20 groups; it takes 40"):
        precision_recall_density_coverage_with_errors(points, points[:39])


@pytest.mark.parametrize("quantile", [0.01, 0.2])
def test_near_copies_are_those_nearer_than_a_quantile_of_unseen_ones(quantile: float):
    generated, training, unseen = normal(0, 70, 3), normal(1, 200, 3), normal(2, 150, 3)
    generated[::10] = training[50:57]
    got = copies_among(generated, training, unseen, quantile)
    threshold = np.quantile(all_distances(unseen, training).min(1), quantile)
    assert got["threshold"] == pytest.approx(threshold, rel=1e-12)
    assert got["share"] == pytest.approx((all_distances(generated, training).min(1) <= threshold).mean(), rel=1e-12)
    assert got["share"] >= 0.1
    assert got["expected"] == quantile


def test_planted_copies_are_counted_and_nothing_else():
    training = normal(0, 500, 20)
    generated, unseen = normal(1, 100, 20), normal(2, 400, 20)
    assert copies_among(generated, training, unseen, 0.001)["share"] == 0
    # Not even exact ones: much nearer than strangers is enough.
    generated[:12] = training[:12] + 1e-3 * normal(3, 12, 20)
    assert copies_among(generated, training, unseen, 0.001)["share"] == pytest.approx(0.12)


@pytest.mark.parametrize("quantile", [0.05, 0.3])
def test_a_model_that_copies_nothing_has_about_the_expected_share(quantile: float):
    generated, training, unseen = normal(0, 2000, 4), normal(1, 1000, 4), normal(2, 2000, 4)
    got = copies_among(generated, training, unseen, quantile)
    # Both the share and the threshold are counts of 2000.
    assert got["share"] == pytest.approx(quantile, abs=4 * np.sqrt(2 * quantile * (1 - quantile) / 2000))


def test_copies_count_also_where_unseen_images_are_copies():
    training, unseen, generated = normal(0, 100, 5), normal(1, 50, 5), normal(2, 40, 5)
    unseen[:10] = training[:10]
    generated[:4] = training[20:24]
    got = copies_among(generated, training, unseen, 0.1)
    assert got["threshold"] == 0
    assert got["share"] == pytest.approx(0.1)
