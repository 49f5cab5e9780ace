"""Which generated images are copies of training images."""

from collections.abc import Mapping

import numpy as np
import torch

from ddpm_cars.metrics.neighbours import near_copies, nearest
from ddpm_cars.runtime.files import rounded

# Twice what is shown, because a mirrored image is often next to the one that it mirrors.
_NUM_NEAREST = 6


def look_for_copies(
    generated: Mapping[str, torch.Tensor],
    training: Mapping[str, torch.Tensor],
    unseen: Mapping[str, torch.Tensor] | None,
) -> tuple[dict[str, dict[str, float]], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Find the training images that are nearest to generated ones, and tell copies from likenesses.

    Args:
        generated: By space ("features", "pixels"), (N, D), floating point, on the CPU.
        training: Likewise, (M, D), M 6 or more.
        unseen: Likewise, (L, D), real images that training has not seen; without them, only neighbours are found.

    Returns:
        Two mappings by space. The first has the share of near copies, the share that a model without copies is
        expected to have, and the distance up to which an image counts as one; it is empty without `unseen`. The second
        has the distances to the nearest training images, ascending, and their indices into `training`, both (N, 6).
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
