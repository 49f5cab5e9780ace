"""Moving averages of the weights, against those of diffusers."""

from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.runs.checkpoints import RAW
from ddpm_cars.training.averages import Averages, half_lives


def change_weights(unet: UNet2DModel, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize(("inv_gamma", "power"), [(1.0, 0.75), (3.0, 2.0)])
def test_averages_are_those_of_diffusers_to_the_bit(
    make_unet: Callable[..., UNet2DModel], inv_gamma: float, power: float
):
    config = TrainingConfig(train_data_dir="x", ema_half_life_steps=(2, 50), ema_inv_gamma=inv_gamma, ema_power=power)
    unet = make_unet()
    averages = Averages(config, unet)
    assert list(averages.tensors) == [str(h) for h in half_lives(config)] == ["2", "50"]
    warmup = {"use_ema_warmup": True, "inv_gamma": inv_gamma, "power": power, "foreach": True}
    expected = {str(h): EMAModel(unet.parameters(), decay=0.5 ** (1 / h), **warmup) for h in (2, 50)}
    for step in range(1, 13):
        change_weights(unet, step)
        averages.set_rates(step)
        averages.step()
        for name, average in expected.items():
            average.step(unet.parameters())
            pairs = zip(averages.tensors[name], average.shadow_params, strict=True)
            assert all(torch.equal(actual, other) for actual, other in pairs), (name, step)
    assert not torch.equal(averages.tensors["2"][0], averages.tensors["50"][0])
    # With so short a half-life the warmup is over, or its decay would be larger.
    assert averages.half_life_steps("2", 12) == 2
    assert averages.half_life_steps("50", 12) < 50
    assert averages.half_life_steps("50", 0) == 0
    assert averages.half_life_steps(RAW, 12) is None


def test_weights_and_an_average_change_places_and_come_back(make_unet: Callable[..., UNet2DModel]):
    unet = make_unet()
    averages = Averages(TrainingConfig(train_data_dir="x", ema_half_life_steps=(7,)), unet)
    change_weights(unet, 0)
    before = [p.detach().clone() for p in unet.parameters()], [a.clone() for a in averages.tensors["7"]]

    def bits() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        return [p.detach() for p in unet.parameters()], averages.tensors["7"]

    def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
        return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    assert not same(*before)
    with averages.in_place_of_weights("7"):
        assert same(bits()[0], before[1])
    assert same(bits()[0], before[0])
    assert same(bits()[1], before[1])


def test_without_averages_nothing_is_kept(make_unet: Callable[..., UNet2DModel]):
    config = TrainingConfig(train_data_dir="x", use_ema=False)
    assert len(half_lives(config)) == len(Averages(config, make_unet()).tensors) == 0
