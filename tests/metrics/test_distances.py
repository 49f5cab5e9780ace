"""Fréchet and kernel distances against closed forms, singular values, plain loops, scipy and torchmetrics."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from ddpm_cars.metrics import distances as frechet
from ddpm_cars.metrics.distances import Moments, frechet_distance, frechet_distance_with_error, kernel_distance


class Projection(torch.nn.Module):
    """Features for torchmetrics and for us: a fixed linear map of the pixels, float64 (N, 5)."""

    num_features = 5

    def __init__(self):
        super().__init__()
        self.weights = torch.nn.Buffer(torch.randn(12, 5, generator=seeded(9), dtype=torch.float64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.double().flatten(1) @ self.weights / 255


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def moments(mean: torch.Tensor, covariance: torch.Tensor, count: int = 11) -> Moments:
    return Moments(count, mean, covariance * (count - 1))


def by_singular_values(x: torch.Tensor, y: torch.Tensor) -> float:
    """Compute the distance without covariances: tr (A B)^(1/2) is the sum of the singular values of X Y^T."""
    a, b = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x.double(), y.double()))
    cross = torch.linalg.svdvals(a @ b.T).sum()
    shift = (x.double().mean(0) - y.double().mean(0)).square().sum()
    return float(shift + a.square().sum() + b.square().sum() - 2 * cross)


def loop_mmd(x: torch.Tensor, y: torch.Tensor) -> float:
    """Compute the unbiased squared MMD of all vectors, pair by pair."""
    a, b = x.tolist(), y.tolist()

    def kernel(p: list[float], q: list[float]) -> float:
        return (sum(i * j for i, j in zip(p, q, strict=True)) / len(p) + 1) ** 3

    def within(z: list[list[float]]) -> float:
        pairs = [kernel(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]
        return sum(pairs) / len(pairs)

    across = [kernel(p, q) for p in a for q in b]
    return within(a) + within(b) - 2 * sum(across) / len(across)


def test_gaussians_whose_covariances_commute_have_a_closed_form():
    basis, _ = torch.linalg.qr(normal(0, 6, 6))
    a = torch.tensor([0.0, 1e-3, 0.5, 1.0, 4.0, 90.0], dtype=torch.float64)
    b = torch.tensor([2.0, 1e-3, 0.0, 3.0, 0.25, 70.0], dtype=torch.float64)
    mean_a, mean_b = normal(1, 6), normal(2, 6)
    got = frechet_distance(moments(mean_a, basis * a @ basis.T), moments(mean_b, basis * b @ basis.T, count=5))
    expected = (a.sqrt() - b.sqrt()).square().sum() + (mean_a - mean_b).square().sum()
    # Rounding makes of a 0 among the eigenvalues of the product what has a root.
    assert got == pytest.approx(float(expected), abs=1e-6 * float(a.sum() + b.sum()))
    positive = moments(mean_a, basis * (a + 1) @ basis.T), moments(mean_b, basis * (b + 1) @ basis.T)
    expected = ((a + 1).sqrt() - (b + 1).sqrt()).square().sum() + (mean_a - mean_b).square().sum()
    assert frechet_distance(*positive) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_two_by_two_covariances_that_do_not_commute(seed: int):
    x, y = normal(seed, 2, 2), normal(seed + 50, 2, 2) * 3
    a, b = x @ x.T, y @ y.T
    assert (a @ b - b @ a).abs().max() > 0.1
    zero = torch.zeros(2, dtype=torch.float64)
    got = frechet_distance(moments(zero, a), moments(zero, b))
    product = a @ b
    # The square of tr M^(1/2) of a 2 x 2 matrix is tr M + 2 det(M)^(1/2).
    root_trace = (product.trace() + 2 * product.det().sqrt()).sqrt()
    assert got == pytest.approx(float(a.trace() + b.trace() - 2 * root_trace), rel=1e-9)
    root = scipy.linalg.sqrtm(product.numpy())
    assert got == pytest.approx(float(a.trace() + b.trace()) - 2 * np.trace(root).real, rel=1e-9)


def test_moments_are_those_of_torch_in_float64():
    features = normal(0, 300, 7, dtype=torch.float32) * 3 + 1
    got = Moments.of(features)
    assert got.count == 300
    assert got.mean.dtype == got.scatter.dtype == got.covariance.dtype == torch.float64
    torch.testing.assert_close(got.mean, features.double().mean(0), rtol=1e-13, atol=0)
    torch.testing.assert_close(got.covariance, torch.cov(features.double().T), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("num_rows", [1, 7, 299, 300])
def test_moments_do_not_depend_on_how_many_rows_are_added_at_a_time(num_rows: int, monkeypatch: pytest.MonkeyPatch):
    features = normal(0, 300, 4)
    monkeypatch.setattr(frechet, "_NUM_ROWS_AT_A_TIME", num_rows)
    torch.testing.assert_close(Moments.of(features).covariance, torch.cov(features.T), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("sizes", [(1, 99), (99, 1), (50, 50), (1, 1, 98), (3, 20, 7, 70), (1,) * 100])
def test_merged_parts_equal_the_whole(sizes: tuple[int, ...]):
    features = normal(0, 100, 5) * torch.tensor([1e-2, 1, 1, 10, 100]) + 7
    first, *others = [Moments.of(part) for part in features.split(sizes)]
    got = first
    for part in others:
        got = got.merge(part)
    whole = Moments.of(features)
    assert got.count == 100
    torch.testing.assert_close(got.mean, whole.mean, rtol=1e-10, atol=0)
    torch.testing.assert_close(got.scatter, whole.scatter, rtol=1e-10, atol=1e-10)


def test_a_part_that_is_taken_out_again_leaves_the_rest():
    features = normal(0, 100, 5) + 7
    part, rest = Moments.of(features[:30]), Moments.of(features[30:])
    got = Moments.of(features).without(part)
    assert got.count == 70
    torch.testing.assert_close(got.mean, rest.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(got.scatter, rest.scatter, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("num_vectors", [2, 20, 200])
def test_a_set_is_at_no_distance_from_itself(num_vectors: int):
    same = Moments.of(normal(0, num_vectors, 30))
    distance = frechet_distance(same, same)
    assert 0 <= distance <= 1e-6 * float(same.covariance.trace())


@pytest.mark.parametrize(("num_x", "num_y"), [(400, 300), (400, 10), (10, 15), (2, 3)])
def test_also_covariances_that_are_singular_give_the_distance(num_x: int, num_y: int):
    x, y = normal(0, num_x, 40), normal(1, num_y, 40) * 2 + 0.3
    a, b = Moments.of(x), Moments.of(y)
    expected = by_singular_values(x, y)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


def test_a_shift_of_both_sets_changes_nothing_also_where_float32_has_few_digits_left():
    # 16ths are all that float32 holds at a million.
    x, y = ((normal(seed, 5000, 4) * 16).round() / 16 + seed / 2 for seed in (0, 1))
    near = [Moments.of(z.float()) for z in (x, y)]
    far = [Moments.of((z + 1e6).float()) for z in (x, y)]
    for a, b in zip(near, far, strict=True):
        torch.testing.assert_close(b.mean - 1e6, a.mean, rtol=0, atol=1e-9)
        torch.testing.assert_close(b.covariance, a.covariance, rtol=1e-9, atol=1e-9)
    assert frechet_distance(*far) == pytest.approx(frechet_distance(*near), rel=1e-7)
    merged = Moments.of((x[:7] + 1e6).float()).merge(Moments.of((x[7:] + 1e6).float()))
    torch.testing.assert_close(merged.covariance, near[0].covariance, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("num_groups", [5, 20])
def test_the_error_is_that_of_the_jackknife_over_groups(num_groups: int):
    x, y = normal(0, 103, 3) + 0.4, normal(1, 500, 3)
    reference = Moments.of(y)
    distance, error = frechet_distance_with_error(x, reference, num_groups)
    assert distance == pytest.approx(by_singular_values(x, y), rel=1e-9)
    groups = np.array_split(np.arange(103), num_groups)
    left = [by_singular_values(x[np.setdiff1d(np.arange(103), group)], y) for group in groups]
    assert error == pytest.approx(np.sqrt((num_groups - 1) * np.var(left)), rel=1e-7)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_error_is_the_spread_over_independent_sets(shift: float):
    reference = Moments.of(normal(10**6, 4000, 3) * 1.2)
    got = np.array([frechet_distance_with_error(normal(seed, 200, 3) + shift, reference) for seed in range(120)])
    spread = got[:, 0].std(ddof=1)
    assert spread / 1.5 < np.sqrt(np.mean(got[:, 1] ** 2)) < spread * 1.5


def test_bad_features_are_named():
    good = Moments.of(normal(0, 40, 3))
    for shape in ((3,), (0, 3), (2, 3, 1)):
        with pytest.raises(ValueError, match=r"features has shape .* it must be \(N, D\)"):
            Moments.of(torch.zeros(shape))
    for value in (float("nan"), float("inf"), -float("inf")):
        bad = normal(0, 60, 3)
        bad[50, 1] = value
        with pytest.raises(ValueError, match="features holds 1 values of 180 that are not finite"):
            Moments.of(bad)
        with pytest.raises(ValueError, match="not finite"):
            frechet_distance_with_error(bad, good)
        with pytest.raises(ValueError, match="x holds 1 values"):
            kernel_distance(bad, normal(0, 60, 3))
        with pytest.raises(ValueError, match="y holds 1 values"):
            kernel_distance(normal(0, 60, 3), bad)


def test_vectors_of_different_lengths_are_refused():
    x, y = normal(0, 40, 3), normal(0, 40, 2)
    a, b = Moments.of(x), Moments.of(y)
    for compare in (
        lambda: frechet_distance(a, b),
        lambda: frechet_distance_with_error(x, b),
        lambda: kernel_distance(x, y),
        lambda: a.merge(b),
    ):
        with pytest.raises(ValueError, match="The vectors have 3 and 2 values"):
            compare()


def test_too_few_vectors_are_refused():
    one, many = Moments.of(normal(0, 1, 3)), Moments.of(normal(0, 9, 3))
    for a, b in ((one, many), (many, one)):
        with pytest.raises(ValueError, match="There is 1 vector; a covariance takes 2 or more"):
            frechet_distance(a, b)
    with pytest.raises(ValueError, match="There are 39 vectors for 20 groups; it takes 40"):
        frechet_distance_with_error(normal(0, 39, 3), many)
    frechet_distance_with_error(normal(0, 40, 3), many)
    for n, m, size in ((1, 5, 5), (5, 1, 5), (5, 5, 1)):
        with pytest.raises(ValueError, match=f"There are {n} and {m} vectors, compared 1 at a time"):
            kernel_distance(normal(0, n, 3), normal(1, m, 3), size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_distance_is_that_of_all_pairs(dtype: torch.dtype):
    x, y = normal(0, 9, 4, dtype=dtype), normal(1, 9, 4, dtype=dtype) * 2 + 1
    distance, std = kernel_distance(x, y)
    assert distance == pytest.approx(loop_mmd(x, y), rel=1e-11)
    assert std == 0
    assert kernel_distance(y, x)[0] == pytest.approx(distance, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_subsets_are_drawn_anew_and_their_std_is_unbiased(dtype: torch.dtype):
    x, y = normal(0, 6, 3, dtype=dtype), normal(1, 7, 3, dtype=dtype) + 1
    # With one vector too many, a subset is all but one.
    left = np.array([loop_mmd(x, y[np.arange(7) != i]) for i in range(7)])
    differing, means = 0, set()
    for seed in range(10):
        mean, std = kernel_distance(x, y, num_subsets=2, seed=seed)
        assert (mean, std) == kernel_distance(x, y, num_subsets=2, seed=seed)
        assert all(np.isclose(left, v, rtol=1e-10).any() for v in (mean - std / 2**0.5, mean + std / 2**0.5))
        differing += std > 0
        means.add(mean)
    assert differing >= 6
    assert len(means) >= 6
    mean, std = kernel_distance(x, y, num_subsets=2000)
    assert mean == pytest.approx(left.mean(), abs=5 * left.std() / 2000**0.5)
    assert std == pytest.approx(left.std(), rel=0.1)


@pytest.mark.parametrize(("num_x", "num_y", "size"), [(20, 20, 8), (30, 12, 12), (12, 30, 1000)])
def test_subsets_have_the_distance_of_the_whole_on_average(num_x: int, num_y: int, size: int):
    x, y = normal(0, num_x, 3), normal(1, num_y, 3) + 1
    mean, std = kernel_distance(x, y, size, num_subsets=1000)
    assert std > 0
    assert mean == pytest.approx(loop_mmd(x, y), abs=4 * std / 1000**0.5)


@pytest.mark.parametrize("size", [20, 10])
def test_the_kernel_distance_of_equal_distributions_is_0_on_average_and_may_be_negative(size: int):
    got = [kernel_distance(normal(2 * s, 20, 4), normal(2 * s + 1, 20, 4), size, 10)[0] for s in range(400)]
    assert np.min(got) < 0 < np.max(got)
    assert abs(np.mean(got)) < 4 * np.std(got) / 20


@pytest.fixture(scope="module")
def images() -> tuple[torch.Tensor, torch.Tensor]:
    real = torch.randint(0, 256, (50, 3, 2, 2), generator=seeded(0), dtype=torch.uint8)
    generated = torch.randint(40, 230, (50, 3, 2, 2), generator=seeded(1), dtype=torch.uint8)
    return real, generated


def test_the_frechet_distance_is_that_of_torchmetrics(images: tuple[torch.Tensor, torch.Tensor]):
    real, generated = images
    theirs = FrechetInceptionDistance(feature=Projection())
    for batch in real.split(20):
        theirs.update(batch, real=True)
    theirs.update(generated, real=False)
    a, b = (Moments.of(Projection()(images)) for images in (real, generated))
    assert frechet_distance(a, b) == pytest.approx(float(theirs.compute()), rel=1e-9)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save all extracted features:UserWarning")
def test_the_kernel_distance_is_that_of_torchmetrics(images: tuple[torch.Tensor, torch.Tensor]):
    real, generated = images
    theirs = KernelInceptionDistance(feature=Projection(), subsets=1, subset_size=50)
    theirs.update(real, real=True)
    theirs.update(generated, real=False)
    mean, _ = theirs.compute()
    got, std = kernel_distance(Projection()(real), Projection()(generated))
    assert std == 0
    assert got == pytest.approx(float(mean), rel=1e-9)
