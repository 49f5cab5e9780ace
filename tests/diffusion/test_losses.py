"""The losses against float64 NumPy, closed forms, torch.distributions, diffusers and the scheduler's own sampling."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.training_utils import compute_snr
from torch.distributions import Normal, kl_divergence

from ddpm_cars.diffusion.denoiser import training_target
from ddpm_cars.diffusion.losses import diffusion_losses, min_snr_weights, vlb_bpd
from tests.support.loss_helpers import (
    BETAS,
    KINDS,
    SHAPE,
    TIMESTEPS,
    T,
    as_prediction,
    coefficients,
    pixels,
    randn,
    scheduler_of,
)


def reference_vlb_bpd(
    x_0: torch.Tensor, x_0_hat: np.ndarray, x_t: torch.Tensor, v: torch.Tensor, c: SimpleNamespace
) -> np.ndarray:
    """Equations 5 and 6 of Nichol & Dhariwal 2021, by torch.distributions in float64."""
    x_0, x_t = x_0.double(), x_t.double()
    f = (v.double().numpy() + 1) / 2
    std = torch.from_numpy(np.exp((f * c.log_beta + (1 - f) * c.log_beta_tilde) / 2))
    weights = [torch.from_numpy(w) for w in (c.x_0_weight, c.x_t_weight)]
    true_mean, mean = (weights[0] * x + weights[1] * x_t for x in (x_0, torch.from_numpy(x_0_hat)))
    terms = kl_divergence(Normal(true_mean, torch.from_numpy(np.exp(c.log_beta_tilde / 2))), Normal(mean, std))
    # t = 0 comes first.
    p = Normal(torch.from_numpy(x_0_hat[0]), std[0])
    below = torch.where(x_0[0] == -1, 0, p.cdf(x_0[0] - 1 / 255))
    above = torch.where(x_0[0] == 1, 1, p.cdf(x_0[0] + 1 / 255))
    terms[0] = -torch.log(above - below)
    return terms.mean((1, 2, 3)).numpy() / math.log(2)


def test_channels_that_do_not_fit_raise():
    scheduler, x = scheduler_of(), randn(0)
    with pytest.raises(ValueError, match=r"has 1 channels.*3.*6"):
        diffusion_losses(scheduler, x[:, :1], x, x, x, TIMESTEPS)
    with pytest.raises(ValueError, match=r"has 3 channels.*must have 6"):
        vlb_bpd(scheduler, x, x, x, TIMESTEPS)


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_pure_noise_at_the_end_leaves_everything_finite(kind: str):
    scheduler = scheduler_of(kind, rescale_betas_zero_snr=True)
    x_0, eps, t = pixels(0), randn(1), torch.full((len(TIMESTEPS),), T - 1)
    x_t = scheduler.add_noise(x_0, eps, t)
    output = torch.cat([randn(2), randn(3)], dim=1).requires_grad_()
    loss, mse = diffusion_losses(scheduler, output, x_0, x_t, eps, t, snr_gamma=5.0)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert mse.isfinite().all()
    assert output.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("snr_gamma", [0.5, 5.0, 1e9])
def test_snr_weights_follow_the_snr_of_diffusers(kind: str, snr_gamma: float):
    scheduler = scheduler_of(kind)
    snr = compute_snr(scheduler, TIMESTEPS).double()
    clipped = snr.clamp(max=snr_gamma)
    expected = {"epsilon": clipped / snr, "sample": clipped, "v_prediction": clipped / (snr + 1)}[kind]
    got = min_snr_weights(scheduler, TIMESTEPS, snr_gamma)
    assert got.dtype == torch.float32
    assert got.shape == (len(TIMESTEPS),)
    # diffusers takes 1 - alpha_bar in float32, 1e-4 at t = 0.
    torch.testing.assert_close(got.double(), expected, rtol=2e-3, atol=0)
    exact = coefficients().snr
    exact_clipped = np.minimum(exact, snr_gamma)
    exact = {"epsilon": exact_clipped / exact, "sample": exact_clipped, "v_prediction": exact_clipped / (exact + 1)}
    np.testing.assert_allclose(got.numpy(), exact[kind], rtol=1e-5)


@pytest.mark.filterwarnings("ignore:At zero terminal SNR")
@pytest.mark.parametrize(("kind", "weight"), [("epsilon", 1.0), ("sample", 0.0), ("v_prediction", 0.0)])
def test_snr_weights_of_pure_noise_are_the_limits(kind: str, weight: float):
    scheduler = scheduler_of(kind, rescale_betas_zero_snr=True)
    assert min_snr_weights(scheduler, torch.tensor([T - 1]), 5.0).tolist() == [weight]
    assert min_snr_weights(scheduler, torch.tensor([T - 2]), 5.0).item() == pytest.approx(weight, abs=1e-3)


@pytest.mark.parametrize("snr_gamma", [0.5, 5.0])
def test_equivalent_predictions_of_any_kind_have_one_weighted_loss(snr_gamma: float):
    x_0, eps, error, c = pixels(0).double().numpy(), randn(1).double().numpy(), 0.1 * randn(2).numpy(), coefficients()
    x_0_hat = x_0 + error
    x_t = c.a * x_0 + c.b * eps
    eps_hat = (x_t - c.a * x_0_hat) / c.b
    expected = np.minimum(c.snr, snr_gamma) * np.square(error).mean((1, 2, 3))
    for kind in KINDS:
        scheduler = scheduler_of(kind, "fixed_small")
        tensors = (as_prediction(kind, x_0_hat, eps_hat, c), x_0, x_t, eps)
        got, _ = diffusion_losses(
            scheduler, *(torch.from_numpy(x).float() for x in tensors), TIMESTEPS, snr_gamma=snr_gamma
        )
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("betas", [BETAS, np.linspace(0.02, 0.4, 20)], ids=["1000", "20"])
def test_the_bound_is_equations_5_and_6(kind: str, betas: np.ndarray):
    t = torch.tensor([0, 1, 7, 12, 18, 19]) * (1 if len(betas) == 20 else 52)
    c = coefficients(betas, t)
    scheduler = scheduler_of(kind, num_train_timesteps=len(betas), trained_betas=betas.tolist())
    x_0, eps, v = pixels(0), randn(1), randn(3)
    x_t = scheduler.add_noise(x_0, eps, t)
    # An error of the size that a trained network has.
    x_0_hat = x_0.double().numpy() + np.minimum(0.3 * c.b / c.a, 0.3) * randn(2).double().numpy()
    eps_hat = (x_t.double().numpy() - c.a * x_0_hat) / c.b
    prediction = torch.from_numpy(as_prediction(kind, x_0_hat, eps_hat, c)).float()
    got = vlb_bpd(scheduler, torch.cat([prediction, v], dim=1), x_0, x_t, t)
    assert got.dtype == torch.float32
    assert got.shape == (len(t),)
    # With x_0 there is nothing to be read, else float32 predictions lose two digits.
    rtol = 1e-5 if kind == "sample" else 2e-3
    np.testing.assert_allclose(got.numpy(), reference_vlb_bpd(x_0, x_0_hat, x_t, v, c), rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_is_about_the_distribution_that_the_scheduler_samples_from(kind: str):
    scheduler, t = scheduler_of(kind), TIMESTEPS[1:]
    scheduler.set_timesteps(T)
    c = coefficients(t=t)
    shape = (len(t), 3, 4, 4)
    x_0, eps, v, output = pixels(0, *shape), randn(1, *shape), randn(2, *shape), randn(3, *shape)
    x_t = scheduler.add_noise(x_0, eps, t)
    if kind == "epsilon":
        # Near the truth, or 1 / sqrt(alpha_bar_T) makes images of astronomical size.
        output = eps + 0.01 * output
    model_output = torch.cat([output, v], dim=1)
    x_s = scheduler.step(model_output, t, x_t, generator=torch.Generator().manual_seed(4)).prev_sample.double()
    std = torch.exp(scheduler._get_variance(t.view(-1, 1, 1, 1), v.double()) / 2)
    mean = x_s - std * torch.randn(shape, generator=torch.Generator().manual_seed(4)).double()
    weights = [torch.from_numpy(w) for w in (c.x_0_weight, c.x_t_weight)]
    q = Normal(weights[0] * x_0 + weights[1] * x_t, torch.from_numpy(np.exp(c.log_beta_tilde / 2)))
    expected = kl_divergence(q, Normal(mean, std)).mean((1, 2, 3)) / math.log(2)
    got = vlb_bpd(scheduler, model_output, x_0, x_t, t).double()
    # The noise taken away again leaves its rounding, beside a beta_tilde of 5e-5 at the second timestep.
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def test_one_timestep_has_a_bound():
    scheduler = scheduler_of(num_train_timesteps=1)
    x_0 = pixels(0)
    x_t = scheduler.add_noise(x_0, randn(1), torch.zeros(6, dtype=torch.long))
    assert vlb_bpd(scheduler, randn(2, 6, 6, 4, 4), x_0, x_t, torch.zeros(6, dtype=torch.long)).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_descending_the_bound_finds_the_optimal_variance(kind: str):
    # For x_0 ~ N(0, s^2) the reverse step has the variance beta_tilde + (weight of x_0)^2 Var(x_0 | x_t), which lies
    # between beta_tilde and beta (Bao et al. 2022, theorem 1).
    s, t = 0.1, torch.tensor([5, 10, 30, 100])
    c = coefficients(t=t)
    scheduler = scheduler_of(kind)
    total = c.a**2 * s**2 + c.b**2
    x_t = np.sqrt(total) * randn(0, 4, 1, 8, 8).double().numpy()
    x_0_hat, std = c.a * s**2 * x_t / total, s * c.b / np.sqrt(total)
    # x_0 as often one standard deviation above its mean given x_t as below: second moments are exact.
    x_0 = x_0_hat + std * np.where(np.indices(x_t.shape).sum(0) % 2, 1, -1)
    eps_hat = (x_t - c.a * x_0_hat) / c.b
    prediction, x_0, x_t = (torch.from_numpy(x).float() for x in (as_prediction(kind, x_0_hat, eps_hat, c), x_0, x_t))
    v = torch.zeros(4, 1, 1, 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([v], lr=1, max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        output = torch.cat([prediction, v.expand_as(prediction)], dim=1)
        loss = vlb_bpd(scheduler, output, x_0, x_t, t).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    optimum = np.log(np.exp(c.log_beta_tilde) + (c.x_0_weight * std) ** 2)
    f = (optimum - c.log_beta_tilde) / (c.log_beta - c.log_beta_tilde)
    assert ((f > 0.05) & (f < 0.95)).all()
    np.testing.assert_allclose((v.detach().numpy() + 1) / 2, f, rtol=0, atol=0.01)
    learned = scheduler._get_variance(t.view(-1, 1, 1, 1), v.detach().double())
    np.testing.assert_allclose(learned.numpy(), optimum, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_half_learns_from_its_own_loss(kind: str, dtype: torch.dtype):
    scheduler, x_0, eps = scheduler_of(kind), pixels(0), randn(1)
    x_t = scheduler.add_noise(x_0, eps, TIMESTEPS)
    output = torch.cat([training_target(scheduler, x_0, eps, TIMESTEPS) + 0.01 * randn(2), randn(3)], dim=1)
    output = output.to(dtype).requires_grad_()

    vlb = vlb_bpd(scheduler, output, x_0, x_t, TIMESTEPS)
    (of_vlb,) = torch.autograd.grad(vlb.mean(), output)
    assert (of_vlb[:, :3] == 0).all()
    assert (of_vlb[:, 3:] != 0).any(dim=(1, 2, 3)).all()

    loss, mse = diffusion_losses(scheduler, output, x_0, x_t, eps, TIMESTEPS, vlb_weight=0.01)
    assert loss.dtype == mse.dtype == torch.float32
    assert not mse.requires_grad
    (of_loss,) = torch.autograd.grad(loss.mean(), output)
    target = as_prediction(kind, x_0.double().numpy(), eps.double().numpy(), coefficients())
    error = output.detach().double().numpy()[:, :3] - target
    np.testing.assert_allclose(mse.numpy(), np.square(error).mean((1, 2, 3)), rtol=1e-4)
    # A gradient in bfloat16 is rounded by 4e-3 of its value.
    rtol, atol = (1e-4, 1e-7) if dtype == torch.float32 else (5e-2, 5e-6)
    np.testing.assert_allclose(of_loss[:, :3].double().numpy(), 2 * error / error.size, rtol=rtol, atol=atol)
    torch.testing.assert_close(of_loss[:, 3:], 0.01 * T * of_vlb[:, 3:], rtol=rtol, atol=1e-7)
    torch.testing.assert_close(loss, mse + 0.01 * T * vlb, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large_log"])
@pytest.mark.parametrize("channels", [3, 6])
def test_without_a_learned_variance_the_loss_is_the_mean_squared_error(variance_type: str, channels: int):
    scheduler, x_0, eps = scheduler_of("epsilon", variance_type), pixels(0), randn(1)
    output = randn(2, len(TIMESTEPS), channels, 4, 4)
    x_t = scheduler.add_noise(x_0, eps, TIMESTEPS)
    loss, mse = diffusion_losses(scheduler, output, x_0, x_t, eps, TIMESTEPS)
    expected = torch.nn.functional.mse_loss(output[:, :3].double(), eps.double())
    assert loss.mean().item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.equal(loss, mse)
    weighted, same_mse = diffusion_losses(scheduler, output, x_0, x_t, eps, TIMESTEPS, snr_gamma=1.0)
    assert torch.equal(same_mse, mse)
    np.testing.assert_allclose(weighted.numpy(), np.minimum(1, 1 / coefficients().snr) * mse.numpy(), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_channels_last_pictures_have_the_same_losses(kind: str):
    scheduler, x_0, eps, output = scheduler_of(kind), pixels(0), randn(1), randn(2, len(TIMESTEPS), 6, 4, 4)
    tensors = [output, x_0, scheduler.add_noise(x_0, eps, TIMESTEPS), eps]
    expected, _ = diffusion_losses(scheduler, *tensors, TIMESTEPS, snr_gamma=5.0)
    got, _ = diffusion_losses(
        scheduler, *(x.contiguous(memory_format=torch.channels_last) for x in tensors), TIMESTEPS, snr_gamma=5.0
    )
    # Sums over an image run in another order.
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_read_from_the_device(kind: str):
    # A tensor on the meta device has no values: reading one raises.
    scheduler = scheduler_of(kind)
    x = torch.empty(SHAPE, device="meta")
    t = torch.empty(len(TIMESTEPS), dtype=torch.long, device="meta")
    output = torch.empty(len(TIMESTEPS), 6, 4, 4, device="meta", requires_grad=True)
    loss, mse = diffusion_losses(scheduler, output, x, x, x, t, snr_gamma=5.0)
    assert loss.shape == mse.shape == (len(TIMESTEPS),)
    loss.mean().backward()
