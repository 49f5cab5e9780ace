"""The held-out loss against closed forms, and what it must not depend on."""

import numpy as np
import pytest
import torch
from torch import nn

from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler
from ddpm_cars.training.validation import HeldOut

CPU = torch.device("cpu")


class Output:
    def __init__(self, sample: torch.Tensor):
        self.sample = sample


class Network(nn.Module):
    """Predicts what `rule(x_t, t, class_labels)` says, and counts its calls."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule
        self.calls = 0

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor | None = None) -> Output:
        self.calls += 1
        return Output(self.rule(x_t, t, class_labels))


def held_out(
    n: int = 10, prediction_type: str = "epsilon", labels: np.ndarray | None = None, seed: int = 0
) -> HeldOut:
    images = np.random.default_rng(1).integers(0, 256, (n, 4, 4, 3), np.uint8)
    scheduler = DDPMCarsScheduler(num_train_timesteps=100, prediction_type=prediction_type)
    return HeldOut(images, labels, scheduler, seed)


def test_a_network_that_predicts_nothing_leaves_the_variance_of_the_noise():
    measure = held_out(200)
    mse = measure.eps_mse(Network(lambda x_t, t, c: torch.zeros_like(x_t)), CPU, 64)
    # The mean of 9,600 squares of N(0, 1) has a standard deviation of 0.0144.
    assert mse == pytest.approx(1, abs=0.06)
    assert mse == pytest.approx(float(measure.eps.double().square().mean()), rel=1e-6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_every_kind_of_prediction_is_measured_in_the_same_unit(prediction_type: str):
    measure = held_out(8, prediction_type)
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 100))[measure.t.numpy()].reshape(-1, 1, 1, 1)
    a, b = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    eps = measure.eps.double().numpy()
    x_0 = (measure.x_t.double().numpy() - b * eps) / a
    # A network that is off by 0.5 in eps says this of x_0 and v.
    wrong = eps + 0.5
    x_0_hat = x_0 - b / a * 0.5
    outputs = {"epsilon": wrong, "sample": x_0_hat, "v_prediction": a * wrong - b * x_0_hat}
    answer = torch.from_numpy(outputs[prediction_type]).float()
    assert measure.eps_mse(Network(lambda x_t, t, c: answer), CPU, 8) == pytest.approx(0.25, rel=1e-3)


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_batches_and_processes_change_nothing(batch_size: int):
    measure = held_out(10)
    rule = lambda x_t, t, c: x_t * (t.view(-1, 1, 1, 1) / 100)  # noqa: E731
    expected = measure.eps_mse(Network(rule), CPU, 10)
    assert measure.eps_mse(Network(rule), CPU, batch_size) == pytest.approx(expected, rel=1e-12)
    networks = [Network(rule) for _ in range(3)]
    # Each process reduces to the sum of all of them.
    parts: list[torch.Tensor] = []
    for i, network in enumerate(networks):
        measure.eps_mse(network, CPU, batch_size, i, 3, lambda total: parts.append(total) or total)
    assert float(sum(parts)) / measure.eps.numel() == pytest.approx(expected, rel=1e-12)
    # Sharded networks need every process to call as often as the others.
    assert len({network.calls for network in networks}) == 1


def test_noise_and_timesteps_are_the_same_every_time_and_spread_over_all():
    first, second, other = held_out(50), held_out(50), held_out(50, seed=1)
    assert torch.equal(first.x_t, second.x_t)
    assert torch.equal(first.t, second.t)
    assert not torch.equal(first.x_t, other.x_t)
    assert first.t.sort().values.tolist() == list(range(1, 100, 2))
    assert first.t.tolist() != sorted(first.t.tolist())


def test_a_picture_keeps_its_noise_when_others_join():
    assert torch.equal(held_out(4).eps, held_out(9).eps[:4])


def test_classes_reach_the_network():
    labels = np.arange(10) % 2
    seen = []
    measure = held_out(10, labels=labels)
    measure.eps_mse(Network(lambda x_t, t, c: seen.extend(c.tolist()) or x_t), CPU, 3)
    assert seen == labels.tolist()
