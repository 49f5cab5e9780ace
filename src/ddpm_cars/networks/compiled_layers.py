"""Layers of a UNet in operators whose gradients a compiler can fuse with those of their neighbours."""

from typing import Any

import torch
from diffusers.models.upsampling import Upsample2D


class CompiledGroupNorm(torch.nn.GroupNorm):
    """`torch.nn.GroupNorm` in other operators, which are used only when it is compiled.

    PyTorch's own operator is made for contiguous tensors. When it is compiled with gradients, activations are stored
    in float32 around it and converted between two memory formats. Here they are read in place: once for the moments of
    every channel, from which those of the groups follow, and once to be scaled.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return (input - mean) / sqrt(variance + eps) weight + bias, moments of a group (Wu & He 2018, eq. 1 and 6).

        Args:
            input: (batch, channels, positions, ...), floating-point; moments are float32.

        Returns:
            Like `input`, in its dtype.
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
        """Repeat every pixel four times, and apply the convolution if there is one.

        Args:
            hidden_states: (batch, channels, height, width), floating-point.
            output_size: Another size than twice the height and width, for which diffusers' own operators are used.
            args: Ignored, as in diffusers.
            kwargs: Ignored, as in diffusers.
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


def replace_layers(network: torch.nn.Module) -> None:
    """Give the layers of a network the classes of this module, where there is one for them."""
    for module in network.modules():
        if type(module) is torch.nn.GroupNorm and module.affine:
            module.__class__ = CompiledGroupNorm
        elif type(module) is Upsample2D and _only_doubles(module):
            module.__class__ = CompiledUpsample2D


def _only_doubles(layer: Upsample2D) -> bool:
    return layer.interpolate and layer.norm is None and not layer.use_conv_transpose
