"""Seeds and generators: everything random is derived here and nowhere else.

Runs that were begun earlier continue, and a seed gives the images that it gave, so these values must never change.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch


def step_seed(seed: int, step: int, *path: int) -> int:
    """Derive a seed in [0, 2**63) for one use of randomness at one step; further integers tell uses apart."""
    # Without its length a path would be the same as one with zeros behind it.
    entropy = [len(path), seed, step, *path]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seeded_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator of random numbers on a device; each kind of device draws numbers of its own."""
    return torch.Generator(device).manual_seed(seed)


def seed_new_weights(seed: int) -> None:
    """Seed the generator that torch itself draws from, which only the weights of new networks do here."""
    torch.manual_seed(seed)


def seeded_generators(seed: int, start: int, stop: int) -> list[torch.Generator]:
    """Return a generator for each of some images: image i is drawn from the seed `seed + i`, whatever its batch."""
    return [seeded_generator(seed + i) for i in range(start, stop)]


def noise_of_rows(shape: Sequence[int], seeds: Iterable[int]) -> torch.Tensor:
    """Draw a row from N(0, I) for each seed, independent of the others: float32 (rows, *shape) on the CPU."""
    return torch.stack([torch.randn(shape, generator=seeded_generator(seed)) for seed in seeds])


def permutation(length: int, *entropy: int) -> np.ndarray:
    """Return 0, 1, ... length - 1 in random order, int64.

    Integers decide the order, a seed and what tells its uses apart. Zeros at the end of them count for nothing.
    """
    return np.random.default_rng(entropy).permutation(length)
