"""Every scheduler with every kind of model: it draws the data from perfect predictions, or says no."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.config.schedulers import SCHEDULERS
from ddpm_cars.errors import UserError
from ddpm_cars.sampling.request import SamplingRequest
from ddpm_cars.sampling.samplers import able_schedulers, check_sampler, make_scheduler
from ddpm_cars.sampling.trial import MEANS, STDS, GaussianNetwork, draw_numbers, fault_of

pytestmark = [
    # An interval of the Brownian motion of DPMSolverSDE may end a rounding error too late.
    pytest.mark.filterwarnings("ignore:Should have:UserWarning:torchsde")
]
T = 12
# Larger betas than usual, so that a short schedule ends in noise too.
SCHEDULES = {
    "linear": {"scale_betas_for_timesteps": True, "beta_end": 0.008},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.02, "beta_end": 0.5},
    "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2"},
    "sigmoid": {"beta_schedule": "sigmoid", "scale_betas_for_timesteps": True, "beta_end": 0.008},
    "sigmoid-not-scaled": {"beta_schedule": "sigmoid", "beta_start": 0.01, "beta_end": 0.5},
    "laplace": {"beta_schedule": "laplace"},
    "trained_betas": {"trained_betas": np.geomspace(0.01, 0.6, T).tolist()},
    "zero-snr": {"scale_betas_for_timesteps": True, "beta_end": 0.008, "rescale_betas_zero_snr": True},
    "zero-snr-sigmoid": {"beta_schedule": "sigmoid", "beta_end": 0.5, "rescale_betas_zero_snr": True},
    "trailing": {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"},
    "linspace": {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "linspace"},
}
PREDICTIONS = ("epsilon", "sample", "v_prediction")
NO_SAMPLE_PREDICTION = {
    *("EulerAncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
    *("DPMSolverSDEScheduler", "PNDMScheduler"),
}


def model_of(schedule: str, prediction_type: str = "epsilon", num_train_timesteps: int = T) -> DDPMCarsScheduler:
    return DDPMCarsScheduler(num_train_timesteps, prediction_type=prediction_type, **SCHEDULES[schedule])


def kinds_of_models() -> list[tuple[str, str]]:
    """Return every schedule with every prediction type, but variants of a schedule with one only."""
    variants = ("sigmoid-not-scaled", "zero-snr-sigmoid", "trailing", "linspace")
    whole = [(schedule, kind) for schedule in SCHEDULES if schedule not in variants for kind in PREDICTIONS]
    # The last timestep of it says nothing of the image.
    whole.remove(("zero-snr", "epsilon"))
    return [*whole, *((schedule, "v_prediction") for schedule in variants)]


@pytest.mark.parametrize(("schedule", "prediction_type"), kinds_of_models())
def test_every_scheduler_draws_the_data_or_is_refused(schedule: str, prediction_type: str):
    model, able = model_of(schedule, prediction_type), {}
    for name in SCHEDULERS:
        able[name] = set()
        scheduler = make_scheduler(name, model.config)
        np.testing.assert_allclose(
            scheduler.alphas_cumprod.double(), model.alphas_cumprod_float64, rtol=1e-4, atol=2e-7, err_msg=name
        )
        for steps in (1, 2, 5, T):
            try:
                drawn = draw_numbers(scheduler, steps)
                stds = torch.tensor(STDS)
                mean_errors, std_ratios = (drawn.mean(0) - torch.tensor(MEANS)).abs() / stds, drawn.std(0) / stds
            except Exception:
                mean_errors = std_ratios = torch.full((2,), np.nan)
            # The mean of 256 numbers is off by 0.0125, and each step may add noise of its own. Few steps make the
            # standard deviation too small: a single one leaves next to nothing.
            # Where noising does not end in noise, the first timestep of a few has less of it than its start.
            right_mean = bool((mean_errors <= torch.tensor((0.175, 0.25) if steps == T else (0.35, 0.5))).all())
            least = {1: 0, 2: 0.03, 5: 0.15, T: 0.3}[steps]
            if right_mean and least <= float(std_ratios.min()) and float(std_ratios.max()) <= 1.5:
                able[name].add(steps)
            else:
                assert fault_of(scheduler, steps) is not None, (name, steps, mean_errors, std_ratios)
    refused, no_sample = {name for name in able if not able[name]}, prediction_type == "sample"
    expected = NO_SAMPLE_PREDICTION if no_sample else set()
    assert expected <= refused <= expected | {"PNDMScheduler", "DEISMultistepScheduler"}
    assert {2, 5, T} <= able["DDPMCarsScheduler"]
    assert all({5, T} <= able[name] for name in ("DDPMScheduler", "DDIMScheduler"))
    assert all({1, 2, 5} <= able[name] for name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"))
    assert able_schedulers(("DDPMCarsScheduler", "DDIMScheduler", "PNDMScheduler"), model.config, 2) == [
        name for name in ("DDPMCarsScheduler", "DDIMScheduler") if 2 in able[name]
    ]


def test_a_thousand_steps_draw_the_data_or_are_refused():
    model = DDPMCarsScheduler()
    # With this spacing, all timesteps of the last one are 0.
    for name in (
        "DDPMCarsScheduler",
        "DDIMScheduler",
        "EulerDiscreteScheduler",
        "PNDMScheduler",
        "UniPCMultistepScheduler",
    ):
        scheduler = make_scheduler(name, model.config)
        # The trial takes fewer steps.
        drawn, fault = draw_numbers(scheduler, 1000), fault_of(scheduler, 1000)
        if name == "UniPCMultistepScheduler":
            assert not drawn.isfinite().all()
            assert fault is not None
        else:
            assert drawn.mean(0).tolist() == pytest.approx(MEANS, abs=0.065), name
            assert drawn.std(0).tolist() == pytest.approx(STDS, rel=0.2), name
            assert fault is None


@pytest.mark.parametrize("num_inference_steps", [1000, 600, 500])
def test_a_trial_takes_few_steps_whatever_is_asked_for(num_inference_steps: int):
    evaluated = []

    class Counting(diffusers.LMSDiscreteScheduler):
        def scale_model_input(self, sample, timestep):
            evaluated.append(float(timestep))
            return super().scale_model_input(sample, timestep)

    # With this spacing, 600 steps and 500 steps begin in the middle, as the few do.
    assert fault_of(Counting(), num_inference_steps) is None
    assert 50 <= len(evaluated) < 100


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_the_perfect_network_knows_what_is_in_the_noise(prediction_type: str):
    model = model_of("squaredcos_cap_v2", prediction_type)
    generator = torch.Generator().manual_seed(0)
    x_0, eps = (torch.randn(400_000, generator=generator, dtype=torch.float64) for _ in range(2))
    x_0 = -0.5 + 0.3 * x_0
    t = torch.tensor(6)
    x_t = model.add_noise(x_0, eps, t)
    target = {"epsilon": eps, "sample": x_0, "v_prediction": model.get_velocity(x_0, eps, t)}[prediction_type]
    predicted = GaussianNetwork(model.alphas_cumprod_float64, prediction_type, -0.5, 0.3)(x_t, 6)
    # Regression of the target on x_t, which is what the best prediction is for Gaussian data.
    slope, offset = np.polyfit(x_t.numpy(), target.numpy(), 1)
    np.testing.assert_allclose(predicted.numpy(), slope * x_t.numpy() + offset, atol=0.01)


@pytest.mark.parametrize("schedule", ["sigmoid", "laplace", "zero-snr"])
@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "PNDMScheduler"])
def test_a_class_that_does_not_know_the_schedule_gets_the_betas(name: str, schedule: str):
    model = DDPMCarsScheduler(prediction_type="v_prediction", **SCHEDULES[schedule])
    scheduler = make_scheduler(name, model.config)
    assert type(scheduler) is getattr(diffusers, name)
    alphas_cumprod = scheduler.alphas_cumprod.double()
    np.testing.assert_allclose(alphas_cumprod, model.alphas_cumprod_float64, rtol=2e-4, atol=2e-7)
    # And on to our class, which computes with the same.
    again = make_scheduler("DDPMCarsScheduler", scheduler.config)
    np.testing.assert_allclose(again.alphas_cumprod_float64, model.alphas_cumprod_float64, rtol=1e-6, atol=6e-8)


def test_repaint_takes_the_betas_as_an_array():
    # It is for filling in and draws nothing by itself.
    config = DDPMCarsScheduler(50, scale_betas_for_timesteps=True).config
    repaint = diffusers.RePaintScheduler.from_config(config, trained_betas=np.array(config.trained_betas))
    np.testing.assert_allclose(repaint.alphas_cumprod, DDPMCarsScheduler.from_config(config).alphas_cumprod_float64)
    with pytest.raises(UserError, match="RePaintScheduler, which is a scheduler of diffusers for other models"):
        make_scheduler("RePaintScheduler", config)


def test_a_class_that_knows_the_schedule_computes_its_own_betas():
    model = DDPMCarsScheduler(beta_schedule="sigmoid")
    assert make_scheduler("DDPMScheduler", model.config).config.trained_betas is None
    assert make_scheduler("DDIMScheduler", DDPMCarsScheduler().config).config.trained_betas is None


def test_a_scheduler_that_cannot_draw_is_one_line_with_those_that_can():
    config = DDPMCarsScheduler(prediction_type="sample").config
    with pytest.raises(UserError) as error:
        check_sampler(make_scheduler("EulerAncestralDiscreteScheduler", config), 5)
    assert str(error.value) == (
        "EulerAncestralDiscreteScheduler cannot draw from this model in 5 steps (NotImplementedError: prediction_type "
        "not implemented yet: sample); choose DDPMCarsScheduler, DDIMScheduler, DPMSolverMultistepScheduler or "
        "UniPCMultistepScheduler"
    )
    with pytest.raises(
        UserError, match=r"in 1,000 steps .*; choose another number of steps, such as 20, or the scheduler DDPMCarsSch"
    ):
        check_sampler(make_scheduler("UniPCMultistepScheduler", config), 1000)
    with pytest.raises(UserError, match=r"^DDPMCarsScheduler cannot .* in 1 step \(what it draws is noise, whatever"):
        check_sampler(DDPMCarsScheduler(), 1)
    assert able_schedulers(SCHEDULERS[:2], config, 5) == ["DDPMCarsScheduler", "DDIMScheduler"]


def test_noise_that_is_left_in_data_wider_than_other_data_is_refused():
    # With N(0.3, 0.2^2) alone, 1.49 times the standard deviation would pass.
    scheduler = make_scheduler("KDPM2DiscreteScheduler", DDPMCarsScheduler(10, beta_start=0.01, beta_end=0.8).config)
    assert fault_of(scheduler, 3) is not None
    assert fault_of(scheduler, 4) is None


def test_a_class_whose_constructor_fails_is_one_line():
    # It computes the order of a last step that one timestep does not have.
    config = DDPMCarsScheduler(1, beta_schedule="squaredcos_cap_v2").config
    words = r"^DPMSolverSinglestepScheduler cannot be made for this model: IndexError, .*; choose another scheduler$"
    with pytest.raises(UserError, match=words):
        make_scheduler("DPMSolverSinglestepScheduler", config)
    assert able_schedulers(["DPMSolverSinglestepScheduler"], config, 1) == []


def test_a_trial_changes_neither_the_scheduler_nor_the_random_numbers_of_others():
    scheduler = make_scheduler("DPMSolverSDEScheduler", DDPMCarsScheduler().config)
    torch.manual_seed(0)
    before, steps = torch.get_rng_state(), scheduler.num_inference_steps
    check_sampler(scheduler, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert scheduler.num_inference_steps == steps


def test_noise_levels_that_nobody_knows_are_left_to_the_scheduler():
    assert fault_of(diffusers.FlowMatchEulerDiscreteScheduler(), 1) is None
    assert fault_of(diffusers.HeunDiscreteScheduler(beta_schedule="exp"), 20) is None
    assert fault_of(diffusers.EulerDiscreteScheduler(timestep_type="continuous"), 20) is None
    # A class that knows them takes them, and one that does not is one line.
    config = diffusers.EulerDiscreteScheduler(use_karras_sigmas=True).config
    assert make_scheduler("EulerDiscreteScheduler", config).config.use_karras_sigmas
    for unknown in (config, diffusers.HeunDiscreteScheduler(beta_schedule="exp").config):
        with pytest.raises(UserError, match=r"^DDPMCarsScheduler cannot be made for this model: "):
            make_scheduler("DDPMCarsScheduler", unknown)
    flow = diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction").config
    with pytest.raises(UserError, match=r"^DDPMCarsScheduler cannot be made .* prediction_type is 'flow_prediction'"):
        make_scheduler("DDPMCarsScheduler", flow)


@pytest.mark.parametrize("scheduler_class", [DDPMCarsScheduler, diffusers.DDPMScheduler])
@pytest.mark.parametrize("variance_type", ["learned", "learned_range", "fixed_large", "fixed_small_log"])
def test_how_much_noise_a_step_adds_is_for_people_to_choose(scheduler_class: type, variance_type: str):
    scheduler = scheduler_class(variance_type=variance_type)
    # With few steps the largest variance leaves much noise, as its metrics show.
    assert fault_of(scheduler, 5) is None
    assert fault_of(scheduler, 1) is not None
    assert scheduler.config.variance_type == scheduler.variance_type == variance_type


def test_a_request_that_its_scheduler_cannot_draw_is_refused(unet: UNet2DModel):
    request = SamplingRequest(num_images=1, num_inference_steps=1)
    with pytest.raises(UserError, match="cannot draw from this model in 1 step"):
        request.checked(DDPMCarsPipeline(unet, DDPMCarsScheduler()))
