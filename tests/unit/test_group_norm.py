"""Group normalisation as a compiler sees it, against PyTorch's operator."""

from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DModel

from ddpm_cars.group_norm import CompiledGroupNorm, replace_group_norms


def traced(module: torch.nn.Module) -> Callable[..., torch.Tensor]:
    """Return what a compiler would be given, run operator by operator."""
    return torch.compile(module, backend="eager", fullgraph=True)


def make_norm(num_channels: int = 8, num_groups: int = 4, **settings: float) -> CompiledGroupNorm:
    torch.manual_seed(0)
    norm = CompiledGroupNorm(num_groups, num_channels, **settings)
    torch.nn.init.normal_(norm.weight, 1.0)
    torch.nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("shape", [(3, 8, 5, 6), (2, 8, 7), (1, 8, 1, 1)], ids=str)
@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_outputs_and_gradients_are_those_of_the_operator(shape: tuple[int, ...], mean: float):
    norm, reference = make_norm(eps=1e-3), torch.nn.GroupNorm(4, 8, eps=1e-3).double()
    reference.load_state_dict({name: value.double() for name, value in norm.state_dict().items()})
    # Channels of a group that differ, and a mean which squares would drown the deviations in.
    offsets = torch.arange(8.0).view(8, *[1] * (len(shape) - 2))
    x = (torch.randn(shape) + offsets + mean).requires_grad_()
    weights = torch.randn(shape)

    def results(module: torch.nn.Module, x: torch.Tensor, weights: torch.Tensor) -> list[torch.Tensor]:
        y = module(x)
        gradients = torch.autograd.grad((y * weights).sum(), [x, *norm_parameters(module)])
        return [tensor.detach().double() for tensor in (y, *gradients)]

    def norm_parameters(module: torch.nn.Module) -> list[torch.nn.Parameter]:
        return [norm.weight, norm.bias] if module is not reference else [reference.weight, reference.bias]

    expected = results(reference, x.detach().double().requires_grad_(), weights.double())
    actual = results(traced(norm), x, weights)  # type: ignore[arg-type]
    for got, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-3 if mean else 1e-5)


def test_bfloat16_stays_bfloat16_with_float32_inside():
    norm = make_norm().bfloat16()
    x = 100 + torch.randn(4, 8, 16, 16)
    expected = torch.nn.functional.group_norm(x.bfloat16().float(), 4, norm.weight.float(), norm.bias.float())
    actual = traced(norm)(x.bfloat16())
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.float(), expected, rtol=1e-2, atol=1e-2)


def test_not_compiled_it_is_the_operator_itself():
    norm, x = make_norm(), torch.randn(2, 8, 4, 4)
    assert torch.equal(norm(x), torch.nn.functional.group_norm(x, 4, norm.weight, norm.bias, norm.eps))


def test_a_network_with_it_is_the_network(make_unet: Callable[..., UNet2DModel]):
    unet = make_unet().eval()
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 7])
    with torch.no_grad():
        expected = unet(x, t).sample
        replace_group_norms(unet)
        calls = sum(type(module) is CompiledGroupNorm for module in unet.modules())
        torch.testing.assert_close(torch.compile(unet, backend="eager")(x, t).sample, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(unet(x, t).sample, expected)
    assert calls > 0


def test_only_modules_of_the_class_itself_are_replaced():
    class Own(torch.nn.GroupNorm):
        """Somebody else's."""

    network = torch.nn.Sequential(torch.nn.GroupNorm(2, 4), Own(2, 4), torch.nn.Conv2d(4, 4, 1))
    replace_group_norms(network)
    assert [type(module) for module in network] == [CompiledGroupNorm, Own, torch.nn.Conv2d]
