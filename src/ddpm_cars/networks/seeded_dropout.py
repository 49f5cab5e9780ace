"""Dropout that depends on the image's place in the run, not on the process or the batch that it is computed in."""

import torch
from diffusers import UNet2DModel
from torch import nn

from ddpm_cars.diffusion.seeds import seeded_generator, step_seed


class RowSeeds:
    """The seeds of the images in the forward pass to come, shared by all dropout layers of a network.

    Attributes:
        values: One per image.
        num_layers: How many layers read them; 0 in a network without dropout.
    """

    def __init__(self) -> None:
        self.values: list[int] = []
        self.num_layers = 0


class SeededDropout(nn.Module):
    """y = x m / (1 - p) with m ~ Bernoulli(1 - p) drawn from (the image's seed, the layer): Srivastava et al. 2014.

    Masks are therefore the same whatever the split into processes and accumulation steps, and when activations are
    computed a second time in the backward pass.

    Args:
        p: Probability of a zero, in (0, 1).
        layer: Which layer of the network this is.
        seeds: One per row of the batch, set before every forward pass.
    """

    def __init__(self, p: float, layer: int, seeds: RowSeeds):
        super().__init__()
        self.p = p
        self.layer = layer
        self.seeds = seeds

    # A compiler would take the seeds for constants, and compile again at every step.
    @torch.compiler.disable
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop values of x, (batch, ...), float of any width; outside training return x itself."""
        if not self.training:
            return x
        rows = [
            torch.rand(x.shape[1:], generator=seeded_generator(step_seed(seed, self.layer), x.device), device=x.device)
            for seed in self.seeds.values[: len(x)]
        ]
        return x * (torch.stack(rows) >= self.p).to(x.dtype) / (1 - self.p)


def seed_dropout(unet: UNet2DModel) -> RowSeeds:
    """Replace the dropout layers of a network by seeded ones and return where their seeds are to be put."""
    seeds = RowSeeds()
    layers = [(name, m.p) for name, m in unet.named_modules() if isinstance(m, nn.Dropout) and m.p > 0]
    seeds.num_layers = len(layers)
    for i, (name, p) in enumerate(layers):
        parent, _, child = name.rpartition(".")
        setattr(unet.get_submodule(parent), child, SeededDropout(p, i, seeds))
    return seeds
