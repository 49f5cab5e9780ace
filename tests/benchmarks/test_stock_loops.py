"""The loop of diffusers' example: its images, its optimiser and its averages, against arithmetic written out."""

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image
from torch.nn import functional

from benchmarks import stock_loops
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.networks.unet import create_unet


@pytest.mark.parametrize("size", [(50, 37), (37, 50)])
def test_the_benchmark_gives_stock_the_images_of_its_example(size: tuple[int, int]):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    whole = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    # 50 : 37 = 21.6 : 16, of which torchvision keeps the integer part.
    long_side = {50: 21, 37: 16}
    shape = [long_side[side] for side in size[::-1]]
    small = functional.interpolate(whole, shape, mode="bilinear", antialias=True)[0] / 127.5 - 1
    # (21 - 16) / 2 = 2.5, rounded to the even neighbour.
    top, left = (2 if side == 21 else 0 for side in shape)
    square = small[:, top : top + 16, left : left + 16]
    torch.manual_seed(0)
    mirrored = []
    for _ in range(20):
        got = stock_loops.stock_image(Image.fromarray(pixels), 16)
        assert (got.dtype, got.shape) == (torch.float32, (3, 16, 16))
        mirrored.append(bool((got - square.flip(-1)).abs().max() < 2 / 127.5))
        assert mirrored[-1] or (got - square).abs().max() < 2 / 127.5
    assert 4 <= sum(mirrored) <= 16


def clipped_adamw(unet: UNet2DModel, batches: list[tuple], rates: list[float]) -> list[float]:
    """AdamW of Loshchilov & Hutter 2019 with the betas of the example; return the losses."""
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    moments, losses = [[torch.zeros_like(p), torch.zeros_like(p)] for p in unet.parameters()], []
    for i, ((x_0, eps, t), rate) in enumerate(zip(batches, rates, strict=True), start=1):
        a = alpha_bar[t].float().view(-1, 1, 1, 1)
        loss = (unet(a.sqrt() * x_0 + (1 - a).sqrt() * eps, t).sample - eps).square().mean()
        grads = torch.autograd.grad(loss, list(unet.parameters()))
        norm = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
        losses.append(loss.item())
        with torch.no_grad():
            for p, g, (m, v) in zip(unet.parameters(), grads, moments, strict=True):
                g = g / norm.clamp(min=1)
                m.mul_(0.95).add_(0.05 * g)
                v.mul_(0.999).add_(0.001 * g.square())
                p.mul_(1 - rate * 1e-6)
                p.sub_(rate * m / (1 - 0.95**i) / ((v / (1 - 0.999**i)).sqrt() + 1e-8))
    return losses


def test_the_stock_loop_of_the_benchmark_trains_as_documented(benchmark_config: TrainingConfig):
    stock = stock_loops.StockTraining(benchmark_config)
    torch.manual_seed(benchmark_config.seed)
    unet = create_unet("tiny", 8).train()
    x_0 = torch.rand(3, 2, 3, 8, 8) * 2 - 1
    torch.manual_seed(1)
    batches = [(x, torch.randn(x.shape), torch.randint(1000, (2,))) for x in x_0]
    torch.manual_seed(1)
    losses = [stock.step(x) for x in x_0]
    # Two steps of warmup; the third is the first of a cosine.
    assert losses == pytest.approx(clipped_adamw(unet, batches, [0.0, 5e-5, 1e-4]), rel=1e-4)
    for ours, stocks in zip(unet.parameters(), stock.model.parameters(), strict=True):
        torch.testing.assert_close(stocks, ours, rtol=0, atol=2e-6)
    assert stock.average.decay**7000 == pytest.approx(0.5)
    before = [shadow.clone() for shadow in stock.average.shadow_params]
    stock.epoch()
    assert (stock.num_images, stock.average.optimization_step) == (8, 7)
    assert any(not torch.equal(a, b) for a, b in zip(before, stock.average.shadow_params, strict=True))
