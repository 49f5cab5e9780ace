"""Group normalisation in operators that a compiler can join with what stands before and behind them."""

import torch


class CompiledGroupNorm(torch.nn.GroupNorm):
    """`torch.nn.GroupNorm`, written anew for when it is compiled for training.

    PyTorch's own operator is made for contiguous tensors: compiled, with gradients, activations are stored in float32
    around it and go back and forth between two orders. Here they are read where they lie, once for the moments of
    every channel, which those of its group follow from, and once to be scaled.
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


def replace_group_norms(network: torch.nn.Module) -> None:
    """Make every `torch.nn.GroupNorm` of a network, but none of a subclass, a `CompiledGroupNorm`; weights stay."""
    for module in network.modules():
        if type(module) is torch.nn.GroupNorm:
            module.__class__ = CompiledGroupNorm
