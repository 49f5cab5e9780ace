"""The chain of least cost against every other chain, and against lengths written out from the betas."""

import itertools
import math

import numpy as np
import pytest

from ddpm_cars import DDPMCarsScheduler
from ddpm_cars.diffusion.bound import expected_kl_nats, least_cost_timesteps
from tests.support.scheduler_helpers import ALPHA_BAR, T, calibration_of, exact, gaussian_mse, random_calibration

SMALL_T = 9
# So uneven that the choice is not simply the lowest timesteps.
BETAS = np.array([0.05, 0.3, 0.02, 0.4, 0.02, 0.5, 0.02, 0.6, 0.3])
SMALL_ALPHA_BAR = np.cumprod(1 - BETAS)
# Of the dimensions of Gaussian data. If they were equal, all chains would cost the same with "analytic".
VARIANCES = np.array([1e-4, 1e-3, 0.01, 0.1, 1.0])
EPS_MSE = gaussian_mse(VARIANCES, SMALL_ALPHA_BAR).mean(1)
# That of a network with a timestep that is better left out.
BAD_AT_FOUR = np.where(np.arange(SMALL_T) == 4, 0.9, EPS_MSE)
TYPES = ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "analytic"]


def small_scheduler(variance_type: str, eps_mse: np.ndarray = EPS_MSE) -> DDPMCarsScheduler:
    calibration = {
        "num_train_timesteps": SMALL_T,
        "timesteps": list(range(SMALL_T)),
        "alphas_cumprod": SMALL_ALPHA_BAR.tolist(),
        "eps_mse": eps_mse.tolist(),
    }
    return exact(variance_type, calibration, num_train_timesteps=SMALL_T, trained_betas=BETAS.tolist())


def length(variance_type: str, eps_mse: np.ndarray, t: int, s: int) -> float:
    """The expected KL of the step from t to s, by equations 6 and 7 of Ho et al. 2020."""
    alpha_bar_t, alpha_bar_s = np.prod(1 - BETAS[: t + 1]), np.prod(1 - BETAS[: s + 1])
    beta = 1 - np.prod(1 - BETAS[s + 1 : t + 1])
    beta_tilde = beta * (1 - alpha_bar_s) / (1 - alpha_bar_t)
    mse = min(1.0, (1 - alpha_bar_t) / alpha_bar_t * eps_mse[t])
    of_mean = alpha_bar_s * (beta / (1 - alpha_bar_t)) ** 2 * mse
    if variance_type == "analytic":
        return math.log(1 + of_mean / beta_tilde) / 2
    variance = beta if variance_type.startswith("fixed_large") else beta_tilde
    return (math.log(variance / beta_tilde) - 1 + (beta_tilde + of_mean) / variance) / 2


def every_chain(num_inference_steps: int) -> list[list[int]]:
    between = itertools.combinations(range(SMALL_T - 2, 0, -1), num_inference_steps - 2)
    return [[SMALL_T - 1, *middle, 0] for middle in between]


def cost(variance_type: str, eps_mse: np.ndarray, chain: list[int]) -> float:
    return sum(length(variance_type, eps_mse, t, s) for t, s in itertools.pairwise(chain))


@pytest.mark.parametrize("num_inference_steps", range(2, SMALL_T + 1))
@pytest.mark.parametrize("eps_mse", [EPS_MSE, BAD_AT_FOUR], ids=["ideal", "bad at four"])
@pytest.mark.parametrize("variance_type", TYPES)
def test_no_other_chain_costs_less(variance_type: str, eps_mse: np.ndarray, num_inference_steps: int):
    chosen = least_cost_timesteps(small_scheduler(variance_type, eps_mse), num_inference_steps)
    chains = every_chain(num_inference_steps)
    costs = [cost(variance_type, eps_mse, chain) for chain in chains]
    assert chosen == chains[int(np.argmin(costs))]


def test_it_has_as_many_steps_as_asked_for_even_if_fewer_cost_less():
    few, many = (
        min(cost("fixed_large", BAD_AT_FOUR, chain) for chain in every_chain(num_inference_steps))
        for num_inference_steps in (SMALL_T - 1, SMALL_T)
    )
    assert few < many
    assert least_cost_timesteps(small_scheduler("fixed_large", BAD_AT_FOUR), SMALL_T) == list(range(SMALL_T))[::-1]


def mixed_scheduler(variance_type: str = "analytic", **config) -> DDPMCarsScheduler:
    """Calibrated for Gaussian data whose dimensions have these variances."""
    return exact(variance_type, calibration_of(gaussian_mse(VARIANCES).mean(1)), **config)


@pytest.mark.parametrize("num_inference_steps", [2, 10, 50])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large", "analytic"])
def test_it_costs_less_than_evenly_spaced_timesteps(variance_type: str, num_inference_steps: int):
    scheduler = mixed_scheduler(variance_type, timestep_spacing="linspace")
    x_0_variance = scheduler.original_sample_variance()

    def expected_nats(t: np.ndarray) -> float:
        return expected_kl_nats(scheduler, t[:-1], t[1:], x_0_variance[t[:-1]]).sum()

    chosen = least_cost_timesteps(scheduler, num_inference_steps)
    assert (chosen[0], chosen[-1], len(chosen)) == (T - 1, 0, num_inference_steps)
    scheduler.set_timesteps(num_inference_steps)
    even = scheduler.timesteps.numpy()
    scheduler.set_timesteps(timesteps=chosen)
    gain = expected_nats(even) - expected_nats(scheduler.timesteps.numpy())
    assert gain == 0 if num_inference_steps == 2 else gain > 0.1 * expected_nats(even)


def test_the_ends_of_the_range_leave_no_choice():
    scheduler = small_scheduler("analytic")
    assert least_cost_timesteps(scheduler, SMALL_T) == list(range(SMALL_T))[::-1]
    assert least_cost_timesteps(scheduler, 2) == [SMALL_T - 1, 0]
    assert least_cost_timesteps(scheduler, 1) == [SMALL_T - 1]


def test_zero_terminal_snr_has_finite_costs():
    scheduler = exact("fixed_large", rescale_betas_zero_snr=True, prediction_type="v_prediction")
    alpha_bar = scheduler.alphas_cumprod_float64
    scheduler.set_calibration({**calibration_of(gaussian_mse(0.3, alpha_bar)), "alphas_cumprod": alpha_bar.tolist()})
    chosen = np.array(least_cost_timesteps(scheduler, 20))
    x_0_mse = scheduler.original_sample_variance()[chosen[:-1]]
    assert np.isfinite(expected_kl_nats(scheduler, chosen[:-1], chosen[1:], x_0_mse)).all()


def test_a_scheduler_is_left_as_it_was():
    scheduler = mixed_scheduler()
    scheduler.set_timesteps(7)

    def state() -> tuple:
        return scheduler.timesteps.tolist(), dict(scheduler.config), scheduler.noise_std.tolist()

    before = state()
    least_cost_timesteps(scheduler, 5)
    assert state() == before


@pytest.mark.parametrize("num_timesteps", [5, T])
def test_the_calibrated_variance_is_that_of_gaussian_data(num_timesteps: int):
    known = np.linspace(0, T - 1, num_timesteps).astype(int)
    scheduler = exact("fixed_small", calibration_of(gaussian_mse(0.3, ALPHA_BAR[known])))
    expected = 0.3 * (1 - ALPHA_BAR) / (ALPHA_BAR * 0.3 + 1 - ALPHA_BAR)
    np.testing.assert_allclose(scheduler.original_sample_variance(), expected, rtol=1e-9)
    # Pixels vary by no more than 1, whatever a bad network says.
    hopeless = exact("fixed_small", calibration_of(np.ones(num_timesteps)))
    assert hopeless.original_sample_variance().max() == 1


@pytest.mark.parametrize("num_inference_steps", [0, SMALL_T + 1])
def test_numbers_out_of_range_are_refused(num_inference_steps: int):
    with pytest.raises(ValueError, match=f"is {num_inference_steps}; it must be from 1 to {SMALL_T}"):
        least_cost_timesteps(small_scheduler("analytic"), num_inference_steps)


@pytest.mark.parametrize("variance_type", ["fixed_small", "analytic"])
def test_a_scheduler_without_a_calibration_is_told_how_to_get_one(variance_type: str):
    with pytest.raises(ValueError, match="calibrate"):
        least_cost_timesteps(DDPMCarsScheduler(variance_type=variance_type), 5)
    foreign = DDPMCarsScheduler.from_config(mixed_scheduler().config, beta_end=0.03)
    with pytest.raises(ValueError, match="another noise schedule"):
        least_cost_timesteps(foreign, 5)


@pytest.mark.parametrize(
    ("variance_type", "cure"), [("learned_range", "fixed_small"), ("learned", "fixed_small"), ("spectral", "analytic")]
)
def test_variances_that_are_not_known_beforehand_are_refused(variance_type: str, cure: str):
    with pytest.raises(ValueError, match=f"{variance_type}.* use '{cure}'"):
        least_cost_timesteps(exact(variance_type, random_calibration()), 5)
