"""Nearest neighbours: whether generated images are like real ones, cover them, or copy them."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from ddpm_cars.metrics.distances import jackknife_error
from ddpm_cars.runtime.files import rounded

# 64 MiB of float64 for each of the two blocks of vectors and for the distances between them.
_BLOCK_VALUES = 2**23
# Candidates are ranked by a formula that cancels where distances are small, and then measured directly.
_NUM_SPARE = 4
# Twice what is shown, because a mirrored image is often next to the one that it mirrors.
_NUM_NEAREST = 6
# The relative error that rounding may leave in |x|^2 + |y|^2 - 2 x . y.
_ROUNDING = 1e-12


def nearest(
    queries: torch.Tensor, references: torch.Tensor, num_neighbours: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the k references (M, D) that are nearest to each query (N, D), by Euclidean distance.

    Returns distances, float64 (N, k), ascending, and indices into `references`, int64 (N, k). The distance of a copy
    is exactly 0, unless more than k + 4 references are nearer to each other than rounding can tell.
    """
    if not 1 <= num_neighbours <= len(references):
        raise ValueError(f"num_neighbours is {num_neighbours}; there are {len(references)} vectors to choose from.")
    num_candidates = min(num_neighbours + _NUM_SPARE, len(references))
    parts = []
    for x, blocks in _squared_distances(queries, references):
        squares, candidates = torch.empty(len(x), 0, dtype=torch.float64), torch.empty(len(x), 0, dtype=torch.int64)
        for first, block in blocks:
            nearby, indices = block.topk(min(num_candidates, block.shape[1]), largest=False)
            squares, candidates = torch.cat([squares, nearby], 1), torch.cat([candidates, indices + first], 1)
            squares, order = squares.topk(min(num_candidates, squares.shape[1]), largest=False)
            candidates = candidates.gather(1, order)
        # Of equal distances among the candidates the lower index is first.
        candidates = candidates.sort(dim=1).values
        direct = torch.stack([(references[column].double() - x.double()).norm(dim=1) for column in candidates.T], 1)
        distances, order = direct.sort(dim=1, stable=True)
        parts.append((distances[:, :num_neighbours], candidates.gather(1, order)[:, :num_neighbours]))
    distances, indices = (torch.cat(column) for column in zip(*parts, strict=True))
    return distances, indices


def _squared_distances(
    x: torch.Tensor, y: torch.Tensor
) -> Iterator[tuple[torch.Tensor, Iterator[tuple[int, torch.Tensor]]]]:
    """Yield blocks of `x` with, for blocks of `y`, the index of the first and all squared distances, float64.

    Rounding is `_ROUNDING` of the squares of the vectors, taken from the mean of `y`.
    """
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"The vectors have {x.shape[1]} and {y.shape[1]} values; both sets need as many.")
    # About a common centre, which keeps digits.
    centre = y.mean(0, dtype=torch.float64)
    num_rows = max(1, _BLOCK_VALUES // (x.shape[1] + 4096))

    def against(rows: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        a = rows - centre
        for first in range(0, len(y), num_rows):
            b = y[first : first + num_rows] - centre
            squares = torch.addmm(b.square().sum(1), a, b.T, alpha=-2)
            yield first, squares.add_(a.square().sum(1, keepdim=True))

    for rows in x.split(num_rows):
        yield rows, against(rows)


def _radii(x: torch.Tensor, num_neighbours: int, kept: torch.Tensor) -> torch.Tensor:
    """Return, for every row of `kept`, how far each vector is from its k-th nearest other one that the row keeps.

    `x` is (N, D) and `kept` bool (G, N); the radii are float64 (G, N), minus infinity for vectors that are not kept.
    If one group holds most of the nearest vectors of another one, the radius without the group is a little too small.
    """
    if len(x) <= num_neighbours:
        raise ValueError(f"There are {len(x)} vectors; {num_neighbours} neighbours take {num_neighbours + 1} or more.")
    # The nearest of all is the vector itself, or one that is the same.
    wanted = num_neighbours + 1
    distances, indices = nearest(x, x, wanted if len(kept) == 1 else min(3 * wanted, len(x)))
    radii = []
    for row in kept:
        place = (row[indices].cumsum(1) < wanted).sum(1, keepdim=True).clamp(max=indices.shape[1] - 1)
        radii.append(torch.where(row, distances.gather(1, place)[:, 0], -torch.inf))
    return torch.stack(radii)


def _reach(centres: torch.Tensor, radii: torch.Tensor) -> torch.Tensor:
    """Return the squares of radii (G, N), with room for what rounds in squared distances to the centres (N, D)."""
    # The centre that distances are taken from is that of the balls, so this is what rounds there.
    spread = (centres - centres.mean(0, dtype=torch.float64)).square().sum(1)
    return radii.sign() * radii.square() * (1 + _ROUNDING) + spread * _ROUNDING


def _shares(
    real: torch.Tensor, generated: torch.Tensor, num_neighbours: int, kept: torch.Tensor
) -> dict[str, np.ndarray]:
    """Return precision, recall, density and coverage, float64 (G,), of the generated vectors that each row keeps.

    `kept` is bool (G, M) for the M generated vectors; its first row keeps all of them.
    """
    reach_of_real = _reach(real, _radii(real, num_neighbours, torch.ones(1, len(real), dtype=torch.bool)))[0]
    reach_of_generated = _reach(generated, _radii(generated, num_neighbours, kept))
    num_balls, in_balls = [], torch.zeros(len(kept), len(real))
    start = 0
    for rows, blocks in _squared_distances(generated, real):
        kept_rows = kept[:, start : start + len(rows)].float()
        start += len(rows)
        count = torch.zeros(len(rows), dtype=torch.int64)
        for first, squares in blocks:
            columns = slice(first, first + squares.shape[1])
            inside = squares <= reach_of_real[columns]
            count += inside.sum(1)
            # Counts of less than 2^24 are exact.
            in_balls[:, columns] += kept_rows @ inside.float()
        num_balls.append(count)
    is_covered = []
    for rows, blocks in _squared_distances(real, generated):
        found = torch.zeros(len(kept), len(rows), dtype=torch.bool)
        for first, squares in blocks:
            reach = reach_of_generated[:, first : first + squares.shape[1]]
            for row, limit in enumerate(reach):
                found[row] |= (squares <= limit).any(1)
        is_covered.append(found)
    balls, num_kept = torch.cat(num_balls), kept.sum(1)
    return {
        "precision": ((kept & (balls > 0)).sum(1).double() / num_kept).numpy(),
        "recall": torch.cat(is_covered, 1).double().mean(1).numpy(),
        "density": ((kept * balls).sum(1).double() / (num_kept * num_neighbours)).numpy(),
        "coverage": (in_balls > 0).double().mean(1).numpy(),
    }


def precision_recall_density_coverage(
    real: torch.Tensor, generated: torch.Tensor, num_neighbours: int = 5
) -> dict[str, float]:
    """Measure whether generated images are like real ones, and whether they cover all real ones.

    With closed balls that reach to the k-th nearest neighbour in the same set: precision is the share of generated
    images in a ball of a real one, recall the share of real ones in a ball of a generated one (Kynkäänniemi et al.
    2019, arXiv:1904.06991, eq. 1 and 2); density is 1 / k of the number of balls of real ones that a generated one is
    in, coverage the share of the balls of real ones with a generated one inside (Naeem et al. 2020, arXiv:2002.09797,
    eq. 2 and 3). Density is about 1 for the same distribution. All four depend on the numbers of vectors: `real`,
    (N, D), and `generated`, (M, D), are best of one size.
    """
    shares = _shares(real, generated, num_neighbours, torch.ones(1, len(generated), dtype=torch.bool))
    return {name: float(share[0]) for name, share in shares.items()}


def precision_recall_density_coverage_with_errors(
    real: torch.Tensor, generated: torch.Tensor, num_neighbours: int = 5, num_groups: int = 20
) -> dict[str, tuple[float, float]]:
    """Compute `precision_recall_density_coverage`, each figure with how far chance in `generated` moves it.

    The error is that of the jackknife over groups, as for the Fréchet distance; `real` is taken as it is. It is the
    spread over independent draws for precision and density, and up to twice the spread for recall and coverage. It is
    never less than what one image changes, because a share of 0 or 1 has no spread and is still not known exactly.
    The order of `generated`, (M, D) with M at least 2 G, must mean nothing.
    """
    groups = torch.arange(len(generated)).tensor_split(num_groups)
    if len(groups[-1]) < 2:
        raise ValueError(f"There are {len(generated)} vectors for {num_groups} groups; it takes {2 * num_groups}.")
    kept = torch.ones(1 + num_groups, len(generated), dtype=torch.bool)
    for row, group in enumerate(groups, start=1):
        kept[row, group] = False
    of_one = {"precision": len(generated), "density": len(generated) * num_neighbours}
    return {
        name: (float(share[0]), max(jackknife_error(share[1:]), 1 / of_one.get(name, len(real))))
        for name, share in _shares(real, generated, num_neighbours, kept).items()
    }


def near_copies(distances: torch.Tensor, unseen_distances: torch.Tensor, quantile: float = 0.01) -> dict[str, float]:
    """Count the generated images that are suspiciously near to a training image.

    Real images that were not used in training show how near is suspicious: the threshold is a low quantile of their
    distances to the nearest training image. A model that copies nothing is within it about as often as they are.
    Both arguments are distances to the nearest training image: (N,) of generated images, (L,) of unseen ones.
    """
    threshold = torch.quantile(unseen_distances, quantile)
    # With copies among the unseen images the threshold is 0, and copies still count.
    share = (distances <= threshold).double().mean()
    return {"share": float(share), "expected": quantile, "threshold": float(threshold)}


def look_for_copies(
    generated: Mapping[str, torch.Tensor],
    training: Mapping[str, torch.Tensor],
    unseen: Mapping[str, torch.Tensor] | None,
) -> tuple[dict[str, dict[str, float]], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Find the training images that are nearest to generated ones, and tell copies from likenesses.

    All three are vectors by space ("features", "pixels"). Returns, by space, what `near_copies` finds, nothing without
    `unseen`; and distances, ascending, and indices of the nearest training images, both (N, 6).
    """
    found, neighbours = {}, {}
    for space, vectors in generated.items():
        distances, indices = nearest(vectors, training[space], _NUM_NEAREST)
        neighbours[space] = distances.numpy(), indices.numpy()
        if unseen is not None:
            of_unseen, _ = nearest(unseen[space], training[space])
            copies = near_copies(distances[:, 0], of_unseen[:, 0])
            found[space] = {name: rounded(value) for name, value in copies.items()}
    return found, neighbours
