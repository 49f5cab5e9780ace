"""What holds for distances between all sets of vectors, and for nearest neighbours in them."""

from functools import reduce

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ddpm_cars.metrics.distances import Moments, frechet_distance
from ddpm_cars.metrics.neighbours import nearest, precision_recall_density_coverage

properties = settings(max_examples=80, deadline=None)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def sets(draw: st.DrawFn, num_sets: int, min_vectors: int = 1) -> list[torch.Tensor]:
    """Draw float32 or float64 sets of vectors of one length, with rounded numbers and equal ones among them."""
    length = draw(st.integers(1, 4))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    values = st.one_of(st.floats(-1000, 1000, width=32), st.integers(-3, 3).map(float))
    shapes = st.tuples(st.integers(min_vectors, 12), st.just(length))
    return [torch.from_numpy(draw(hnp.arrays(dtype, shapes, elements=values))) for _ in range(num_sets)]


def size_of(*several: torch.Tensor) -> float:
    """Return what rounding is relative to: the greatest of the values."""
    return max(float(x.abs().max()) for x in several)


def assert_same(a: Moments, b: Moments, size: float) -> None:
    assert a.count == b.count
    torch.testing.assert_close(a.mean, b.mean, rtol=0, atol=1e-13 * size)
    torch.testing.assert_close(a.scatter, b.scatter, rtol=0, atol=1e-12 * a.count * size**2)


@properties
@given(sets(2), st.data())
def test_nearest_equals_brute_force(drawn: list[torch.Tensor], data: st.DataObject):
    x, y = drawn
    k = data.draw(st.integers(1, len(y)))
    distances, indices = nearest(x, y, k)
    brute = np.sqrt(np.square(x.double().numpy()[:, None] - y.double().numpy()[None]).sum(-1))
    # Squares round by 1e-16 of the greatest, so vectors that are nearer to each other than that may swap.
    np.testing.assert_allclose(distances, np.sort(brute, axis=1)[:, :k], rtol=1e-12, atol=1e-7 * size_of(x, y))
    np.testing.assert_allclose(distances, np.take_along_axis(brute, indices.numpy(), 1), rtol=1e-12)
    assert (distances.diff(dim=1) >= 0).all()
    assert all(len(set(row)) == k for row in indices.tolist())


@properties
@given(sets(1), st.data())
def test_copies_of_up_to_five_vectors_are_found_under_the_lowest_index(drawn: list[torch.Tensor], data: st.DataObject):
    (y,) = drawn
    y = y[:5]
    chosen = data.draw(st.lists(st.integers(0, len(y) - 1), min_size=1, max_size=6))
    distances, indices = nearest(y[chosen], y)
    rows = y.tolist()
    assert not distances.any()
    assert indices[:, 0].tolist() == [rows.index(rows[i]) for i in chosen]


@properties
@given(sets(3), st.permutations(range(3)))
def test_merging_is_associative_and_order_does_not_matter(drawn: list[torch.Tensor], order: list[int]):
    whole, size = Moments.of(torch.cat(drawn)), size_of(*drawn)
    a, b, c = parts = [Moments.of(x) for x in drawn]
    assert_same(a.merge(b).merge(c), whole, size)
    assert_same(a.merge(b.merge(c)), whole, size)
    assert_same(reduce(Moments.merge, [parts[i] for i in order]), whole, size)


@properties
@given(sets(2, min_vectors=2))
def test_the_frechet_distance_is_symmetric_and_never_negative(drawn: list[torch.Tensor]):
    x, y = drawn
    a, b = Moments.of(x), Moments.of(y)
    tolerance = 1e-6 * float(a.covariance.trace() + b.covariance.trace()) + 1e-12 * size_of(x, y) ** 2
    forth, back = frechet_distance(a, b), frechet_distance(b, a)
    assert min(forth, back) >= 0
    assert abs(forth - back) <= tolerance
    # No two distributions are nearer than their means, nor farther than if they were independent.
    shift = float((a.mean - b.mean).square().sum())
    assert shift - tolerance <= forth <= shift + float(a.covariance.trace() + b.covariance.trace()) + tolerance
    assert 0 <= frechet_distance(a, a) <= tolerance


@properties
@given(seeds, st.integers(1, 5), st.integers(6, 20), st.integers(6, 20), st.integers(1, 5))
def test_quality_and_variety_depend_on_neither_order_nor_rotation_nor_shift(
    seed: int, length: int, num_real: int, num_generated: int, k: int
):
    rng = np.random.default_rng(seed)
    real, generated = rng.normal(size=(num_real, length)), rng.normal(0.3, 0.8, (num_generated, length))
    basis, _ = np.linalg.qr(rng.normal(size=(length, length)))
    shift = rng.normal(0, 30, length)
    whole = precision_recall_density_coverage(torch.from_numpy(real), torch.from_numpy(generated), k)
    moved = [torch.from_numpy(rng.permutation(x) @ basis + shift) for x in (real, generated)]
    assert precision_recall_density_coverage(*moved, k) == whole
    assert min(whole.values()) >= 0
    assert max(whole["precision"], whole["recall"], whole["coverage"]) <= 1
    assert whole["density"] <= num_real / k
