"""Distances between sets of feature vectors, in float64: Fréchet's and the kernel distance."""

from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch

from ddpm_cars.diffusion.seeds import seeded_generator

_NUM_ROWS_AT_A_TIME = 4096


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and scatter of a set of vectors, which can be put together from those of its parts."""

    count: int
    mean: torch.Tensor  # float64 (D,)
    scatter: torch.Tensor  # float64 (D, D), the sum of (x - mean) (x - mean)^T

    @classmethod
    def of(cls, features: torch.Tensor) -> "Moments":
        """Compute the moments of vectors (N, D); raises ValueError without a vector, or if a value is not finite."""
        _check_features("features", features)
        mean = features.mean(0, dtype=torch.float64)
        scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        for rows in features.split(_NUM_ROWS_AT_A_TIME):
            x = rows - mean
            scatter.addmm_(x.T, x)
        return cls(len(features), mean, scatter)

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both sets together (Chan, Golub & LeVeque 1983, pairwise update)."""
        _check_lengths(self.mean, other.mean)
        count = self.count + other.count
        difference = other.mean - self.mean
        mean = self.mean + difference * (other.count / count)
        between = torch.outer(difference, difference) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    def without(self, part: "Moments") -> "Moments":
        """Return the moments of the vectors that remain without a part of them: the inverse of `merge`."""
        count = self.count - part.count
        mean = self.mean - (part.mean - self.mean) * (part.count / count)
        difference = part.mean - mean
        between = torch.outer(difference, difference) * (part.count * count / self.count)
        return Moments(count, mean, self.scatter - part.scatter - between)

    @property
    def covariance(self) -> torch.Tensor:
        """The unbiased covariance, float64 (D, D)."""
        if self.count < 2:
            raise ValueError(f"There is {self.count} vector; a covariance takes 2 or more.")
        return self.scatter / (self.count - 1)


def _check_features(name: str, features: torch.Tensor) -> None:
    if features.ndim != 2 or not len(features):
        raise ValueError(f"{name} has shape {tuple(features.shape)}; it must be (N, D), N 1 or more.")
    num_bad = int((~features.isfinite()).sum())
    if num_bad:
        raise ValueError(f"{name} holds {num_bad} values of {features.numel()} that are not finite.")


def _check_lengths(a: torch.Tensor, b: torch.Tensor) -> None:
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"The vectors have {a.shape[-1]} and {b.shape[-1]} values; both sets need as many.")


def _root(covariance: torch.Tensor) -> torch.Tensor:
    """Return the symmetric square root."""
    values, vectors = torch.linalg.eigh(covariance)
    # Rounding makes eigenvalues of 0 a little negative.
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def _distance(a: Moments, b: Moments, root_b: torch.Tensor) -> float:
    covariance_a = a.covariance
    # A B and B^(1/2) A B^(1/2) have the same eigenvalues, and the latter is symmetric.
    cross = torch.linalg.eigvalsh(root_b @ covariance_a @ root_b).clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + covariance_a.trace() + b.covariance.trace() - 2 * cross
    return max(0.0, float(distance))


def frechet_distance(a: Moments, b: Moments) -> float:
    """Compute |mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)) (Heusel et al. 2017, arXiv:1706.08500, eq. 6).

    This is the squared Wasserstein distance of the two normal distributions. Rounding moves it by about a millionth
    of the variances' sum. That of as few vectors as there are features is far from that of many.
    """
    _check_lengths(a.mean, b.mean)
    return _distance(a, b, _root(b.covariance))


def jackknife_error(without: np.ndarray) -> float:
    """Return the standard error of a figure from its values without one group each, float64 (G,).

    It is sqrt((G - 1) / G sum (d_g - mean d)^2) (Efron & Stein 1981, whose groups are single vectors).
    """
    num_groups = len(without)
    return float(np.sqrt((num_groups - 1) / num_groups * np.square(without - without.mean()).sum()))


def frechet_distance_with_error(
    features: torch.Tensor, reference: Moments, num_groups: int = 20
) -> tuple[float, float]:
    """Compute the Fréchet distance and how far chance in `features` moves it.

    The error is that of the jackknife over G groups. Unlike the bootstrap's, its sets have no vector twice, which
    would itself be a distance. The reference is taken as it is. The order of `features`, (N, D) with N at least 2 G,
    must mean nothing.
    """
    if len(features) < 2 * num_groups:
        raise ValueError(f"There are {len(features)} vectors for {num_groups} groups; it takes {2 * num_groups}.")
    _check_lengths(features, reference.mean)
    groups = [Moments.of(group) for group in features.tensor_split(num_groups)]
    whole = reduce(Moments.merge, groups)
    root = _root(reference.covariance)
    without = np.array([_distance(whole.without(group), reference, root) for group in groups])
    return _distance(whole, reference, root), jackknife_error(without)


def kernel_distance(
    x: torch.Tensor, y: torch.Tensor, subset_size: int = 1000, num_subsets: int = 100, seed: int = 0
) -> tuple[float, float]:
    """Compute KID, the unbiased squared MMD of the kernel (x . y / D + 1)^3 (Binkowski et al. 2018, arXiv:1801.01401).

    Returns the mean over random subsets of `x`, (N, D), and `y`, (M, D), and the standard deviation over the subsets,
    which is no standard error of the mean. If the subset size is both N and M, there is one subset only, and the
    standard deviation is 0.
    """
    for name, z in (("x", x), ("y", y)):
        _check_features(name, z)
    _check_lengths(x, y)
    n = min(subset_size, len(x), len(y))
    if n < 2:
        raise ValueError(f"There are {len(x)} and {len(y)} vectors, compared {n} at a time; it takes 2 or more.")
    if n == len(x) == len(y):
        return _squared_mmd(x.double(), y.double()), 0.0
    generator = seeded_generator(seed)
    values = []
    for _ in range(num_subsets):
        a, b = (z[torch.randperm(len(z), generator=generator)[:n]].double() for z in (x, y))
        values.append(_squared_mmd(a, b))
    return float(np.mean(values)), float(np.std(values, ddof=1))


def _squared_mmd(a: torch.Tensor, b: torch.Tensor) -> float:
    n, num_features = a.shape
    kernel_aa, kernel_bb, kernel_ab = ((p @ q.T / num_features + 1) ** 3 for p, q in ((a, a), (b, b), (a, b)))
    within = sum(k.sum() - k.trace() for k in (kernel_aa, kernel_bb)) / (n * (n - 1))
    return float(within - 2 * kernel_ab.mean())
