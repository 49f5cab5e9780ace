"""Layers as a compiler sees them, against the operators of PyTorch and the layers of diffusers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models.upsampling import Upsample2D
from safetensors.torch import save_file

from ddpm_cars.networks.layers import CompiledGroupNorm, CompiledUpsample2D, replace_layers
from tests.support.fresh_process import run_alone


def traced(module: torch.nn.Module) -> torch.nn.Module:
    """Return what a compiler would be given, run operator by operator."""
    return torch.compile(module, backend="eager", fullgraph=True)


def make_norm(**settings: float) -> CompiledGroupNorm:
    torch.manual_seed(0)
    norm = CompiledGroupNorm(4, 8, **settings)
    torch.nn.init.normal_(norm.weight, 1.0)
    torch.nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("shape", [(3, 8, 5, 6), (2, 8, 7), (1, 8, 1, 1)], ids=str)
@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_outputs_and_gradients_are_those_of_the_operator(shape: tuple[int, ...], mean: float):
    norm, reference = make_norm(eps=1e-3), torch.nn.GroupNorm(4, 8, eps=1e-3).double()
    reference.load_state_dict(norm.state_dict())
    # Channels of a group that differ, and a mean which squares would drown the deviations in.
    offsets = torch.arange(8.0).view(8, *[1] * (len(shape) - 2))
    x = (torch.randn(shape) + offsets + mean).requires_grad_()
    weights = torch.randn(shape)

    def results(module: torch.nn.Module, x: torch.Tensor, weights: torch.Tensor) -> list[torch.Tensor]:
        y = module(x)
        gradients = torch.autograd.grad((y * weights).sum(), [x, module.weight, module.bias])
        return [tensor.detach().double() for tensor in (y, *gradients)]

    expected = results(reference, x.detach().double().requires_grad_(), weights.double())
    actual = results(traced(norm), x, weights)
    for got, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-2 if mean else 1e-4)


def test_bfloat16_stays_bfloat16_with_float32_inside():
    norm = make_norm().bfloat16()
    x = 100 + torch.randn(4, 8, 16, 16)
    expected = torch.nn.functional.group_norm(x.bfloat16().float(), 4, norm.weight.float(), norm.bias.float())
    actual = traced(norm)(x.bfloat16())
    assert actual.dtype == torch.bfloat16
    # One rounding to bfloat16 is 4e-3; means in bfloat16 would be off by 0.25 of a value.
    torch.testing.assert_close(actual.float(), expected, rtol=5e-2, atol=5e-2)


def test_not_compiled_it_is_the_operator_itself():
    norm, x = make_norm(), torch.randn(2, 8, 4, 4)
    assert torch.equal(norm(x), torch.nn.functional.group_norm(x, 4, norm.weight, norm.bias, norm.eps))


def test_a_network_that_is_not_compiled_stays_what_it_is(make_unet: Callable[..., UNet2DModel]):
    unet = make_unet().eval()
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 7])
    with torch.no_grad():
        expected = unet(x, t).sample
        replace_layers(unet)
        kinds = {type(module) for module in unet.modules()}
        assert torch.equal(unet(x, t).sample, expected)
    assert kinds >= {CompiledGroupNorm, CompiledUpsample2D}
    assert not kinds & {torch.nn.GroupNorm, Upsample2D}


@pytest.mark.parametrize("settings", [{"use_conv": True}, {"use_conv": True, "name": "Conv2d_0"}, {}], ids=str)
def test_upsampling_and_its_gradients_are_those_of_diffusers(settings: dict):
    torch.manual_seed(0)
    layer = Upsample2D(3, **settings)
    x, weights = torch.randn(2, 3, 4, 5, requires_grad=True), torch.randn(2, 3, 8, 10)

    def results(layer: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        y = layer(x)
        return [y.detach(), torch.autograd.grad((y * weights).sum(), x)[0]]

    expected = results(layer)
    replace_layers(layer)
    assert type(layer) is CompiledUpsample2D
    assert torch.equal(results(layer)[0], expected[0])
    for got, wanted in zip(results(traced(layer)), expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_upsampling_to_a_size_is_left_to_diffusers():
    layer, x = Upsample2D(3, use_conv=True), torch.randn(1, 3, 4, 4)
    expected = layer(x, output_size=(7, 9))
    replace_layers(layer)
    assert torch.equal(torch.compile(layer, backend="eager")(x, output_size=(7, 9)), expected)


def test_only_layers_of_the_classes_themselves_are_replaced():
    class Own(torch.nn.GroupNorm):
        """Somebody else's."""

    transposed, normalised = Upsample2D(4, use_conv_transpose=True), Upsample2D(4, norm_type="rms_norm", eps=1e-5)
    others = [Own(2, 4), torch.nn.GroupNorm(2, 4, affine=False), torch.nn.Conv2d(4, 4, 1), transposed, normalised]
    before, norm, upsampling = [type(layer) for layer in others], torch.nn.GroupNorm(2, 4), Upsample2D(4)
    replace_layers(torch.nn.Sequential(norm, upsampling, *others))
    assert (type(norm), type(upsampling)) == (CompiledGroupNorm, CompiledUpsample2D)
    assert [type(layer) for layer in others] == before


def test_the_real_compiler_finds_the_same_gradients(make_unet: Callable[..., UNet2DModel], tmp_path: Path):
    no_attention = {
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "add_attention": False,
    }
    unet = make_unet(seed=1, **no_attention)
    unet.save_pretrained(tmp_path)
    x, t = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8), torch.tensor([3, 7])
    (unet(x, t).sample - x).square().mean().backward()
    save_file({name: p.grad for name, p in unet.named_parameters()}, tmp_path / "gradients.safetensors")
    # A compiler warns of its own parts.
    script = (
        "import sys, torch\n"
        "from diffusers import UNet2DModel\n"
        "from safetensors.torch import load_file\n"
        "from ddpm_cars.networks.layers import replace_layers\n"
        "unet = UNet2DModel.from_pretrained(sys.argv[1])\n"
        "replace_layers(unet.train())\n"
        "x, t = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8), torch.tensor([3, 7])\n"
        "(torch.compile(unet, dynamic=False)(x, t).sample - x).square().mean().backward()\n"
        "for name, gradient in load_file(sys.argv[1] + '/gradients.safetensors').items():\n"
        "    torch.testing.assert_close(unet.get_parameter(name).grad, gradient, rtol=1e-3, atol=1e-6)\n"
    )
    run_alone(script, tmp_path)
