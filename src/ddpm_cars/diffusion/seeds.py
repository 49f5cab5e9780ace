"""TODO src/ddpm_cars/diffusion/seeds.py."""

import numpy as np
import torch


def step_seed(seed: int, step: int, *path: int) -> int:
    """Derive an independent seed for one use of randomness at one step.

    Args:
        seed: The seed of the run, 0 or more.
        step: The optimiser step, 0 or more.
        path: Further integers that tell uses apart.

    Returns:
        An integer in [0, 2**63).
    """
    # Without its length a path would be the same as one with zeros behind it.
    entropy = [len(path), seed, step, *path]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seeded_generators(seed: int, start: int, stop: int) -> list[torch.Generator]:
    """Return a generator per image: image i is drawn from the seed `seed + i`, whatever its batch."""
    return [torch.Generator().manual_seed(seed + i) for i in range(start, stop)]
