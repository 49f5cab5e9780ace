"""The optimiser: its state, and its learning rate."""

from pathlib import Path

import pytest
import torch

from ddpm_cars.runs.checkpoints import load_checkpoint, save_checkpoint
from ddpm_cars.training.optimizer import flatten_optimizer, restore_optimizer


def make_run(optimizer_class: type[torch.optim.Optimizer]) -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2)
    return net, optimizer_class(net.parameters(), lr=0.05)


def train(net: torch.nn.Linear, optimizer: torch.optim.Optimizer, start: int, stop: int) -> None:
    for step in range(start, stop):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("optimizer_class", [torch.optim.Adam, torch.optim.AdamW])
def test_a_restored_optimizer_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, optimizer_class: type[torch.optim.Optimizer]
):
    net, optimizer = make_run(optimizer_class)
    train(net, optimizer, 0, 3)
    path = save_checkpoint(
        tmp_path, 3, {"unet": net.state_dict(), "optimizer": flatten_optimizer(optimizer)}, {"note": "half way"}
    )
    train(net, optimizer, 3, 6)

    fresh, fresh_optimizer = make_run(optimizer_class)
    tensors, state = load_checkpoint(path)
    fresh.load_state_dict(tensors["unet"])
    without_moments = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    restore_optimizer(fresh_optimizer, tensors["optimizer"])
    train(fresh, fresh_optimizer, 3, 6)
    assert state == {"step": 3, "note": "half way"}
    for name, tensor in net.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor)

    forgetful, forgetful_optimizer = make_run(optimizer_class)
    forgetful.load_state_dict(without_moments)
    train(forgetful, forgetful_optimizer, 3, 6)
    assert not torch.equal(forgetful.weight, net.weight)


def test_an_optimizer_keeps_its_own_hyper_parameters():
    net, optimizer = make_run(torch.optim.Adam)
    train(net, optimizer, 0, 1)
    other = torch.optim.Adam(net.parameters(), lr=0.5)
    restore_optimizer(other, flatten_optimizer(optimizer))
    assert other.param_groups[0]["lr"] == 0.5
    assert int(other.state[net.weight]["step"]) == 1
    assert torch.equal(other.state[net.weight]["exp_avg"], optimizer.state[net.weight]["exp_avg"])
