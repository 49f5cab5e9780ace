"""Networks whose weights are finite and whose activations are not."""

import torch
from diffusers import UNet2DModel


@torch.no_grad()
def beyond_float16(unet: UNet2DModel) -> UNet2DModel:
    """Make activations larger than float16 can hold; normalising them undoes it, so float32 and bfloat16 are fine."""
    unet.conv_in.weight.mul_(3e5)
    return unet


@torch.no_grad()
def beyond_float32(unet: UNet2DModel) -> UNet2DModel:
    """Make activations larger than float32 can hold, as a product of three weights that it can."""
    unet.time_embedding.linear_1.bias[0] = 1e15
    unet.time_embedding.linear_2.weight[0, 0] = 1e15
    unet.down_blocks[0].resnets[0].time_emb_proj.weight[:, 0] = 1e15
    return unet
