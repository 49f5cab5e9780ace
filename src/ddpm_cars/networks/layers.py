"""Layers that training puts in place of those of a UNet: compilers can fuse them, and dropout follows the images."""

from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.models.upsampling import Upsample2D
from torch import nn

from ddpm_cars.diffusion.seeds import seeded_generator, step_seed


class CompiledGroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm` in other operators, whose gradients a compiler can fuse with those of their neighbours.

    They are used only when it is compiled. PyTorch's own operator is made for contiguous tensors: activations are then
    stored in float32 around it and converted between two memory formats. Here they are read in place: once for the
    moments of every channel, from which those of the groups follow, and once to be scaled.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return (input - mean) / sqrt(variance + eps) weight + bias, moments of a group (Wu & He 2018, eq. 1 and 6).

        Input and result are (batch, channels, positions, ...) of one floating-point dtype; moments are float32.
        """
        if not torch.compiler.is_compiling():
            return super().forward(input)
        x, (batch_size, num_channels) = input.float(), input.shape[:2]
        variance, mean = (
            moment.view(batch_size, self.num_groups, -1)
            for moment in torch.var_mean(x, dim=tuple(range(2, x.ndim)), correction=0)
        )
        group_mean = mean.mean(-1, keepdim=True)
        group_variance = (variance + (mean - group_mean).square()).mean(-1, keepdim=True)
        scale = torch.rsqrt(group_variance + self.eps) * self.weight.float().view(self.num_groups, -1)
        shift = self.bias.float().view(self.num_groups, -1) - group_mean * scale
        scale, shift = (part.view(batch_size, num_channels, *[1] * (x.ndim - 2)) for part in (scale, shift))
        return (x * scale + shift).to(input.dtype)


class CompiledUpsample2D(Upsample2D):
    """Diffusers' upsampling to twice the size in other operators, which are used only when it is compiled.

    The gradient of interpolation is compiled to sums into a buffer of zeros, one number at a time, and the compiler of
    torch 2.13 lets a CPU read that buffer before the sums are complete. The gradient of repetition is a sum of four.
    """

    def forward(
        self, hidden_states: torch.Tensor, output_size: tuple[int, int] | None = None, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Repeat the pixels of (batch, channels, height, width) four times, and apply the convolution if there is one.

        For another size than twice the height and width, diffusers' own operators are used.
        """
        if not torch.compiler.is_compiling() or output_size is not None:
            return super().forward(hidden_states, output_size, *args, **kwargs)
        # Channels come last, as convolutions read them.
        x = hidden_states.permute(0, 2, 3, 1)
        batch_size, height, width, num_channels = x.shape
        x = x[:, :, None, :, None].expand(-1, -1, 2, -1, 2, -1)
        x = x.reshape(batch_size, 2 * height, 2 * width, num_channels).permute(0, 3, 1, 2)
        if not self.use_conv:
            return x
        return self.conv(x) if self.name == "conv" else self.Conv2d_0(x)


def replace_layers(network: nn.Module) -> None:
    """Give the layers of a network the compiled classes, where there is one for them."""
    for layer in network.modules():
        if type(layer) is nn.GroupNorm and layer.affine:
            layer.__class__ = CompiledGroupNorm
        elif type(layer) is Upsample2D and layer.interpolate and layer.norm is None and not layer.use_conv_transpose:
            layer.__class__ = CompiledUpsample2D


class RowSeeds:
    """The seeds of the images in the forward pass to come, shared by all dropout layers of a network."""

    def __init__(self) -> None:
        self.values: list[int] = []  # One per image.
        self.num_layers = 0  # How many layers read them.


class SeededDropout(nn.Module):
    """y = x m / (1 - p) with m ~ Bernoulli(1 - p) drawn from (the image's seed, the layer): Srivastava et al. 2014.

    Masks are therefore the same whatever the split into processes and accumulation steps, and when activations are
    computed a second time in the backward pass. The seeds are set before every forward pass.
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
    """Replace the dropout layers of a network by seeded ones, and return where their seeds are to be put."""
    seeds = RowSeeds()
    layers = [(name, m.p) for name, m in unet.named_modules() if isinstance(m, nn.Dropout) and m.p > 0]
    seeds.num_layers = len(layers)
    for i, (name, p) in enumerate(layers):
        parent, _, child = name.rpartition(".")
        setattr(unet.get_submodule(parent), child, SeededDropout(p, i, seeds))
    return seeds
