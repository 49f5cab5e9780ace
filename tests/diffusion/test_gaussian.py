"""The parts of the variational bound against torch.distributions, high-precision arithmetic and their own sums."""

import math

import mpmath
import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ddpm_cars.diffusion.gaussian import discretized_gaussian_nll_nats, gaussian_kl_nats

LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact_nll(level: int, mean: float, log_variance: float) -> float:
    """-log of the mass of one bin, with 60 digits."""
    with mpmath.workdps(60):
        std = mpmath.exp(mpmath.mpf(log_variance) / 2)
        x = level / mpmath.mpf("127.5") - 1 - mpmath.mpf(mean)
        lower = -mpmath.inf if level == 0 else (x - mpmath.mpf(1) / 255) / std
        upper = mpmath.inf if level == 255 else (x + mpmath.mpf(1) / 255) / std
        if lower + upper > 0:
            lower, upper = -upper, -lower
        lower, upper = (mpmath.erfc(-z / mpmath.sqrt(2)) / 2 for z in (lower, upper))
        return float(-mpmath.log(upper - lower))


def test_the_kl_is_that_of_torch_distributions():
    mean_1, mean_2, log_variance_1, log_variance_2 = 2 * randn(4, 50)
    got = gaussian_kl_nats(mean_1, log_variance_1, mean_2, log_variance_2)
    p, q = (
        Normal(mean, torch.exp(log_variance / 2))
        for mean, log_variance in ((mean_1, log_variance_1), (mean_2, log_variance_2))
    )
    torch.testing.assert_close(got, kl_divergence(p, q), rtol=1e-12, atol=1e-12)


def test_the_kl_broadcasts_and_vanishes_between_equals_only():
    mean, log_variance = randn(3, 1, 4), randn(5, 1)
    same = gaussian_kl_nats(mean, log_variance, mean, log_variance)
    assert same.shape == (3, 5, 4)
    assert (same == 0).all()
    assert (gaussian_kl_nats(mean, log_variance, mean, log_variance + 1e-3) > 0).all()
    assert (gaussian_kl_nats(mean, log_variance, mean + 1e-3, log_variance) > 0).all()


def test_a_tiny_kl_keeps_its_digits_in_float32():
    # KL is (r + exp(-r) - 1) / 2, about r^2 / 4, for a small difference r of log variances.
    r = 2**-8
    got = gaussian_kl_nats(torch.zeros(1), torch.tensor([-9.0]), torch.zeros(1), torch.tensor([-9.0 + r]))
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx((r + math.expm1(-r)) / 2, rel=1e-3)


@pytest.mark.parametrize("log_variance", [-16.0, -9.2, -5.0, 0.0, 6.0])
@pytest.mark.parametrize("mean", [-40.0, -1.2, -1.0, -0.7, 0.0, 0.1234, 0.997, 1.5])
def test_the_256_bins_add_up_to_one(mean: float, log_variance: float):
    nll = discretized_gaussian_nll_nats(LEVELS, *torch.tensor([mean, log_variance], dtype=torch.float64))
    assert torch.exp(-nll).sum().item() == pytest.approx(1, abs=1e-11)


@pytest.mark.parametrize("log_variance", [-16.0, -9.2, -5.0, 0.0, 12.0])
@pytest.mark.parametrize("mean", [-3.0, -0.7, 0.0, 0.1234, 0.99, 1.5, 20.0])
def test_every_bin_is_exact_far_into_the_tails(mean: float, log_variance: float):
    nll = discretized_gaussian_nll_nats(LEVELS, *torch.tensor([mean, log_variance], dtype=torch.float64))
    for level in (0, 1, 90, 128, 254, 255):
        # A mass near 1 has the absolute error of float64.
        exact = exact_nll(level, mean, log_variance)
        assert nll[level].item() == pytest.approx(exact, rel=1e-9, abs=1e-15), level


def test_bins_in_the_middle_are_differences_of_the_cdf_of_torch_distributions():
    mean, log_variance = 0.3 * randn(20, 1), randn(20, 1, seed=1) - 3
    normal = Normal(mean, torch.exp(log_variance / 2))
    lower, upper = normal.cdf(LEVELS - 1 / 255), normal.cdf(LEVELS + 1 / 255)
    lower[:, 0], upper[:, -1] = 0, 1
    seen = upper - lower > 1e-6
    assert seen.sum() > 1000
    got = torch.exp(-discretized_gaussian_nll_nats(LEVELS, mean, log_variance))
    torch.testing.assert_close(got[seen], (upper - lower)[seen], rtol=1e-8, atol=0)


def test_float32_pixels_give_what_float64_ones_give():
    pixels = torch.from_numpy(np.arange(256, dtype=np.uint8)).float() / 127.5 - 1
    mean, log_variance = torch.tensor(0.25), torch.tensor(-9.0)
    got = discretized_gaussian_nll_nats(pixels, mean, log_variance)
    assert got.dtype == torch.float32
    expected = discretized_gaussian_nll_nats(LEVELS, mean.double(), log_variance.double())
    # A standard deviation of 0.011 makes rounding of pixels a hundred times larger.
    torch.testing.assert_close(got, expected.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite_wherever_a_network_may_end_up(dtype: torch.dtype):
    mean = torch.tensor([0.0, 1.0, -1e3, 1e6, -1e12], dtype=dtype).view(-1, 1, 1).requires_grad_()
    log_variance = torch.tensor([-200.0, -40.0, -9.0, 0.0, 60.0], dtype=dtype).view(-1, 1).requires_grad_()
    nll = discretized_gaussian_nll_nats(LEVELS.to(dtype), mean, log_variance)
    assert nll.shape == (5, 5, 256)
    assert nll.isfinite().all()
    assert (nll >= 0).all()
    nll.sum().backward()
    assert mean.grad.isfinite().all()
    assert log_variance.grad.isfinite().all()


@pytest.mark.parametrize("level", [0, 1, 100, 254, 255])
def test_gradients_are_those_of_differences_of_the_exact_values(level: int):
    mean, log_variance = 0.13, -8.0
    arguments = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (mean, log_variance)]
    got = torch.autograd.grad(discretized_gaussian_nll_nats(LEVELS[level], *arguments), arguments)
    step = 1e-4
    for i, gradient in enumerate(got):
        ends = [[mean, log_variance] for _ in range(2)]
        ends[0][i] += step
        ends[1][i] -= step
        difference = (exact_nll(level, *ends[0]) - exact_nll(level, *ends[1])) / (2 * step)
        assert gradient.item() == pytest.approx(difference, rel=1e-4)
