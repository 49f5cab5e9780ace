"""What a network says of the noise and of the image, against the equations in float64."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ddpm_cars.diffusion.denoiser import Denoiser, training_target
from tests.support.loss_helpers import KINDS, TIMESTEPS, T, as_prediction, coefficients, pixels, randn, scheduler_of


@pytest.mark.parametrize("kind", KINDS)
def test_the_target_is_what_the_equations_say(kind: str):
    x_0, eps = pixels(0), randn(1)
    got = training_target(scheduler_of(kind), x_0, eps, TIMESTEPS)
    expected = as_prediction(kind, x_0.double().numpy(), eps.double().numpy(), coefficients())
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_predictions_are_read_as_noise_and_as_pictures(kind: str, learned: bool, dtype: torch.dtype):
    x_0_hat, eps_hat, c = pixels(0).double().numpy(), randn(1).double().numpy(), coefficients()
    x_t = torch.from_numpy(c.a * x_0_hat + c.b * eps_hat).float()
    output = torch.from_numpy(as_prediction(kind, x_0_hat, eps_hat, c)).to(dtype)
    # What a 16-bit network has rounded stays rounded; x_t is mixed in float32 all the same.
    given = output.double().numpy()
    if kind == "epsilon":
        eps_hat, x_0_hat = given, (x_t.double().numpy() - c.b * given) / c.a
    elif kind == "sample":
        eps_hat, x_0_hat = (x_t.double().numpy() - c.a * given) / c.b, given
    else:
        eps_hat, x_0_hat = (c.a * given + c.b * x_t.double().numpy()), (c.a * x_t.double().numpy() - c.b * given)
    if learned:
        output = torch.cat([output, torch.full_like(output, 9.0)], dim=1)
    denoiser = Denoiser(lambda *inputs: output, scheduler_of(kind))
    for got, expected in (
        (denoiser.eps_hat(x_t, TIMESTEPS), eps_hat),
        (denoiser.x_0_hat(x_t, TIMESTEPS)[0], x_0_hat),
    ):
        assert got.dtype == torch.float32
        # Dividing by sqrt(1 - alpha_bar_0) = 0.01 or sqrt(alpha_bar_T) = 0.006 costs two digits there, and there only.
        divisor = 1.0 if kind == "v_prediction" else np.minimum(c.a, c.b)
        np.testing.assert_allclose(got.double().numpy() * divisor, expected * divisor, rtol=0, atol=1e-5)


def test_channels_that_do_not_fit_raise():
    x = randn(0)
    denoiser = Denoiser(lambda *inputs: x[:, :1], scheduler_of())
    for read in (denoiser.eps_hat, denoiser.x_0_hat):
        with pytest.raises(ValueError, match=r"has 1 channels.*3.*6"):
            read(x, TIMESTEPS)


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_pure_noise_says_what_it_is(kind: str):
    scheduler = scheduler_of(kind, rescale_betas_zero_snr=True)
    eps, prediction, t = randn(1), randn(2), torch.full((len(TIMESTEPS),), T - 1)
    x_t = scheduler.add_noise(pixels(0), eps, t)
    assert torch.equal(x_t, eps)
    denoiser = Denoiser(lambda *inputs: prediction, scheduler)
    # alpha_bar is 0: x_t is eps, and v is -x_0.
    torch.testing.assert_close(denoiser.eps_hat(x_t, t), eps, rtol=0, atol=1e-6)
    x_0_hat = prediction if kind == "sample" else -prediction
    for timesteps in (t, T - 1):
        torch.testing.assert_close(denoiser.x_0_hat(x_t, timesteps)[0], x_0_hat, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_runs_in_its_own_dtype_and_is_read_in_another_without_gradients(dtype: torch.dtype):
    class Network(nn.Conv2d):
        dtype, device = torch.bfloat16, torch.device("cpu")

        def forward(self, x_t: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor) -> SimpleNamespace:
            seen.append((x_t.dtype, t.tolist(), class_labels.tolist()))
            return SimpleNamespace(sample=super().forward(x_t))

    seen: list[tuple] = []
    denoiser = Denoiser(Network(3, 6, 1, dtype=torch.bfloat16), scheduler_of(), dtype)
    x_0_hat, place = denoiser.x_0_hat(randn(0)[:2], 7, torch.tensor([3, 1]))
    assert seen == [(torch.bfloat16, [7, 7], [3, 1])]
    assert x_0_hat.shape == place.shape == (2, 3, 4, 4)
    assert x_0_hat.dtype == place.dtype == dtype
    assert not x_0_hat.requires_grad
    assert not place.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_read_from_the_device(kind: str):
    # A tensor on the meta device has no values: reading one raises.
    x, t = torch.empty(2, 3, 4, 4, device="meta"), torch.empty(2, dtype=torch.long, device="meta")
    denoiser = Denoiser(lambda *inputs: x, scheduler_of(kind))
    assert denoiser.eps_hat(x, t).device.type == denoiser.x_0_hat(x, t)[0].device.type == "meta"
