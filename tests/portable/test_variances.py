"""The variances that depend on the data, against closed forms in float64."""

import math

import numpy as np
import pytest
import torch

from ddpm_cars import DDPMCarsScheduler
from ddpm_cars.diffusion.calibration import band_edges
from ddpm_cars.scheduling_ddpm_cars import band_index, dct_matrix, posterior
from tests.support.scheduler_helpers import (
    ALPHA_BAR,
    SIZE,
    T,
    calibration_of,
    exact,
    gaussian_mse,
    orthonormal,
    random_calibration,
    seeded,
    spectral_calibration,
)


def sampled_variance(scheduler: DDPMCarsScheduler, c: float) -> float:
    """Propagate the variance of x_t through every step of the ideal denoiser of N(0, c I), checking each x_s."""
    chain = scheduler.timesteps.tolist()
    v = ALPHA_BAR[chain[0]] * c + 1 - ALPHA_BAR[chain[0]]
    one, zero = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    z = float(torch.randn(1, generator=seeded(5), dtype=torch.float64))
    for i, t in enumerate(chain):
        ideal = math.sqrt(1 - ALPHA_BAR[t]) / (ALPHA_BAR[t] * c + 1 - ALPHA_BAR[t])
        noise = float(scheduler.step(zero, t, zero, generator=seeded(5)).prev_sample)
        gain = float(scheduler.step(ideal * one, t, one, generator=seeded(5)).prev_sample) - noise
        v = gain**2 * v + (noise / z) ** 2
        if i + 1 < len(chain):
            s = chain[i + 1]
            assert v == pytest.approx(ALPHA_BAR[s] * c + 1 - ALPHA_BAR[s], rel=1e-11)
    return v


def subsets() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [sorted(rng.choice(T, n, replace=False).tolist(), reverse=True) for n in (1, 2, 3, 17, 400)]


@pytest.mark.parametrize("timesteps", subsets(), ids=lambda chosen: f"{len(chosen)} timesteps")
@pytest.mark.parametrize("c", [0.01, 0.3, 1.0, 4.0])
def test_analytic_is_exact_on_isotropic_gaussian_data(c: float, timesteps: list[int]):
    scheduler = exact("analytic", {**calibration_of(gaussian_mse(c)), "data_variance": c})
    scheduler.set_timesteps(timesteps=timesteps)
    # Only the noise-free last step falls short, by the posterior variance that it does not add.
    alpha_bar_1 = ALPHA_BAR[timesteps[-1]]
    deficit = (1 - alpha_bar_1) / (alpha_bar_1 * c + 1 - alpha_bar_1)
    assert sampled_variance(scheduler, c) == pytest.approx(c * (1 - deficit), rel=1e-12)


@pytest.mark.parametrize("timesteps", subsets(), ids=lambda chosen: f"{len(chosen)} timesteps")
def test_fixed_large_is_exact_on_standard_normal_data(timesteps: list[int]):
    scheduler = exact("fixed_large")
    scheduler.set_timesteps(timesteps=timesteps)
    assert sampled_variance(scheduler, 1.0) == pytest.approx(ALPHA_BAR[timesteps[-1]], rel=1e-12)


def test_analytic_lies_between_the_fixed_variances_and_reaches_both():
    chosen = [900, 500, 100, 3]

    def stds(scheduler: DDPMCarsScheduler) -> list[float]:
        scheduler.set_timesteps(timesteps=chosen)
        return scheduler.noise_std.tolist()

    small, large = stds(exact("fixed_small")), stds(exact("fixed_large"))
    np.testing.assert_allclose(stds(exact("analytic", calibration_of(np.zeros(T)))), small, rtol=1e-7)
    np.testing.assert_allclose(stds(exact("analytic", calibration_of(gaussian_mse(1.0)))), large, rtol=1e-12)
    between = stds(exact("analytic", calibration_of(gaussian_mse(0.2))))
    assert all(a < b < c for a, b, c in zip(small[:-1], between[:-1], large[:-1], strict=True))
    # A network that is worse than no network at all is not believed: C_t is clipped at 1.
    hopeless = stds(exact("analytic", calibration_of(np.ones(T))))
    t, s = chosen[:-1], chosen[1:]
    x_0_weight, _, _, beta_tilde = posterior(ALPHA_BAR[t], ALPHA_BAR[s])
    limit = np.sqrt(beta_tilde + x_0_weight**2 * np.minimum(1.0, (1 - ALPHA_BAR[t]) / ALPHA_BAR[t]))
    np.testing.assert_allclose(hopeless[:-1], limit, rtol=1e-9)


def test_a_few_timesteps_calibrate_gaussian_data_exactly():
    full = exact("analytic", calibration_of(gaussian_mse(0.3)))
    sparse = exact("analytic", calibration_of(gaussian_mse(0.3, ALPHA_BAR[np.linspace(0, T - 1, 4).astype(int)])))
    for n in (10, 1000):
        full.set_timesteps(n)
        sparse.set_timesteps(n)
        np.testing.assert_allclose(sparse.noise_std, full.noise_std, rtol=1e-9)


@pytest.mark.parametrize("grey_levels", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("variance_type", ["analytic", "spectral"])
def test_the_last_noise_is_bounded_in_grey_levels(variance_type: str, grey_levels: float):
    calibration = spectral_calibration(np.full((3, 4), 0.5), np.eye(3), band_edges(*SIZE, 4))
    scheduler = exact(variance_type, calibration, max_last_noise_grey_levels=grey_levels)
    free = exact(variance_type, calibration)
    zeros = torch.zeros(500, 3, *SIZE, dtype=torch.float64)
    for s in (scheduler, free):
        s.set_timesteps(10)
    for t in scheduler.timesteps.tolist():
        bounded = scheduler.step(zeros, t, zeros, generator=seeded(5)).prev_sample
        unbounded = free.step(zeros, t, zeros, generator=seeded(5)).prev_sample
        if t == scheduler.timesteps[-2]:
            assert float(bounded.abs().mean()) == pytest.approx(grey_levels * 2 / 255, rel=0.01)
            assert float(unbounded.abs().mean()) > 0.05
        else:
            assert torch.equal(bounded, unbounded)


def test_dct_is_orthonormal_and_sorts_by_frequency():
    for size in (1, 2, 7, 64):
        matrix = dct_matrix(size)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-13)
        np.testing.assert_allclose(matrix[0], 1 / math.sqrt(size), rtol=1e-13)
        assert (np.diff(np.sign(matrix), axis=1) != 0).sum(1).tolist() == list(range(size))


@pytest.mark.parametrize(
    ("height", "width", "num_bands"), [(1, 1, 2), (8, 8, 2), (8, 8, 16), (6, 10, 5), (64, 48, 32)]
)
def test_bands_partition_the_modes(height: int, width: int, num_bands: int):
    edges = band_edges(height, width, num_bands)
    index = band_index(height, width, edges)
    assert (edges[0], edges[-1]) == (0, 1)
    assert np.all(np.diff(edges) > 0)
    assert len(edges) - 1 <= num_bands
    assert np.unique(index).tolist() == list(range(len(edges) - 1))
    if height * width > 1:
        assert (index == 0).sum() == 1
    # A mode of higher frequency never lies in a lower band.
    radius = np.hypot(*np.mgrid[:height, :width] / np.array([height, width])[:, None, None])
    order = np.argsort(radius.ravel(), kind="stable")
    assert np.all(np.diff(index.ravel()[order])[np.diff(radius.ravel()[order]) > 1e-9] >= 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, *SIZE), (2, 3, 4, *SIZE)])
def test_equal_bands_are_analytic_to_the_bit(shape: tuple[int, ...], dtype: torch.dtype):
    edges = band_edges(*SIZE, 8)
    calibration = spectral_calibration(np.full((3, len(edges) - 1), 0.4), orthonormal(3), edges)
    # The mean over bands rounds; the schedulers are to see the same number.
    calibration["band_eps_mse"] = np.broadcast_to(
        np.array(calibration["eps_mse"])[:, None, None], (T, 3, len(edges) - 1)
    ).tolist()
    calibration["band_variance"] = np.ones((3, len(edges) - 1)).tolist()
    analytic, spectral = (exact(kind, calibration) for kind in ("analytic", "spectral"))
    x_t, output = (torch.randn(shape, generator=seeded(i)).to(dtype) for i in range(2))
    for n in (10, 1000):
        analytic.set_timesteps(n)
        spectral.set_timesteps(n)
        for t in (analytic.timesteps[0], analytic.timesteps[n // 2], analytic.timesteps[-2]):
            a, b = (s.step(output, t, x_t, generator=seeded(5)).prev_sample for s in (analytic, spectral))
            assert torch.equal(a, b)


@pytest.mark.parametrize("timesteps", subsets()[:4], ids=lambda chosen: f"{len(chosen)} timesteps")
def test_spectral_is_exact_on_gaussian_data_whose_spectrum_matches_the_bands(timesteps: list[int]):
    edges, axes = band_edges(*SIZE, 6), orthonormal(3)
    # Low bands vary far more than white data of unit variance could, as those of photographs do.
    v = np.geomspace(30, 1e-3, 3 * (len(edges) - 1)).reshape(3, -1)
    scheduler = exact("spectral", spectral_calibration(v, axes, edges))
    scheduler.set_timesteps(timesteps=timesteps)
    rows, columns, axes = (torch.from_numpy(m) for m in (dct_matrix(SIZE[0]), dct_matrix(SIZE[1]), axes))

    def modes(x: torch.Tensor) -> np.ndarray:
        return torch.einsum("ac,nchw->nahw", axes, rows @ x @ columns.T).numpy()[0]

    def image(m: np.ndarray) -> torch.Tensor:
        return rows.T @ torch.einsum("ac,ahw->chw", axes, torch.from_numpy(m))[None] @ columns

    z = torch.randn(1, 3, *SIZE, generator=seeded(5), dtype=torch.float64)
    c = v[:, band_index(*SIZE, edges)]
    marginal = {t: ALPHA_BAR[t] * c + 1 - ALPHA_BAR[t] for t in timesteps}
    variance, zeros = marginal[timesteps[0]], torch.zeros_like(z)
    for t, s in zip(timesteps, [*timesteps[1:], None], strict=True):
        noise = scheduler.step(zeros, t, zeros, generator=seeded(5)).prev_sample
        eps_hat = image(math.sqrt(1 - ALPHA_BAR[t]) / marginal[t])
        gain = modes(scheduler.step(eps_hat, t, image(np.ones_like(c)), generator=seeded(5)).prev_sample - noise)
        variance = gain**2 * variance + (modes(noise) / modes(z)) ** 2
        last = ALPHA_BAR[t]
        expected = marginal[s] if s is not None else last * c**2 / (last * c + 1 - last)
        # x_0_hat is a difference of numbers near 1 over sqrt(alpha_bar_t), and so is what float64 rounds off.
        rounded_off_std = 32 * np.finfo(float).eps / math.sqrt(last)
        np.testing.assert_allclose(np.sqrt(variance), np.sqrt(expected), rtol=1e-9, atol=rounded_off_std)


def test_band_variance_of_the_data_limits_what_a_bad_network_may_add():
    edges = band_edges(*SIZE, 4)
    shape = (3, len(edges) - 1)
    calibration = spectral_calibration(np.full(shape, 0.1), np.eye(3), edges)
    calibration |= {"band_eps_mse": np.ones((T, *shape)).tolist(), "eps_mse": np.zeros(T).tolist()}
    bad, good = exact("spectral", calibration), exact("analytic", calibration_of(np.zeros(T)))
    bad.set_timesteps(10)
    good.set_timesteps(10)
    t, s = bad.timesteps[:2].tolist()
    x_0_weight, _, _, beta_tilde = posterior(ALPHA_BAR[t], ALPHA_BAR[s])
    assert good.noise_std[0] ** 2 == pytest.approx(beta_tilde, rel=1e-6)
    zeros = torch.zeros(400, 3, *SIZE, dtype=torch.float64)
    noise = bad.step(zeros, t, zeros, generator=seeded(5)).prev_sample
    assert float(noise.var()) == pytest.approx(beta_tilde + x_0_weight**2 * 0.1, rel=0.02)


@pytest.mark.parametrize("variance_type", ["analytic", "spectral"])
def test_per_sample_timesteps_equal_steps_one_by_one(variance_type: str):
    scheduler = exact(variance_type, random_calibration())
    scheduler.set_timesteps(10)
    x_t, output = (torch.randn(3, 3, *SIZE, generator=seeded(i)) for i in range(2))
    t = scheduler.timesteps[[7, 0, 9]]
    together = scheduler.step(output, t, x_t, generator=[seeded(i) for i in range(3)]).prev_sample
    for i in range(3):
        alone = scheduler.step(output[[i]], t[i], x_t[[i]], generator=[seeded(i)]).prev_sample
        torch.testing.assert_close(together[[i]], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variance_type", ["analytic", "spectral"])
def test_step_compiles_once_for_all_timesteps(variance_type: str):
    torch._dynamo.reset()
    scheduler = exact(variance_type, random_calibration())
    scheduler.set_timesteps(10)
    x_t, output = (torch.randn(2, 3, *SIZE, generator=seeded(i)) for i in range(2))

    def step(output: torch.Tensor, t: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
        return scheduler.step(output, t, x_t, return_dict=False)[0]

    compiled = torch.compile(step, fullgraph=True, backend="eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for t in scheduler.timesteps:
            torch.manual_seed(0)
            expected = step(output, t, x_t)
            torch.manual_seed(0)
            torch.testing.assert_close(compiled(output, t, x_t), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("on_device", [True, False])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large", "learned_range", "analytic", "spectral"])
def test_step_never_reads_a_value_from_the_device(variance_type: str, on_device: bool):
    scheduler = exact(variance_type, random_calibration())
    # Tensors on "meta" have no values: whatever would wait for a device raises here.
    scheduler.set_timesteps(10, device="meta" if on_device else None)
    x_t = torch.empty(2, 3, *SIZE, device="meta")
    output = torch.cat([x_t, x_t], dim=1) if variance_type == "learned_range" else x_t
    for t in scheduler.timesteps:
        step = scheduler.step(output, t, x_t)
        assert step.prev_sample.shape == x_t.shape
        assert step.prev_sample.device.type == "meta"
    many = torch.empty(2, dtype=torch.int64, device="meta")
    assert scheduler.step(output, many, x_t).prev_sample.shape == x_t.shape
    assert scheduler.add_noise(x_t, x_t, many).shape == x_t.shape
