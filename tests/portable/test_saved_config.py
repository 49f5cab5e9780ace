"""What a config may hold, where it travels, and what the scheduler says of mistakes in it."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DDPMWuerstchenScheduler, SchedulerMixin
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers

from ddpm_cars import DDPMCarsScheduler, fit_init_noise
from tests.support.scheduler_helpers import VARIANCES, alpha_bars, randn, seeded


def test_no_timesteps_at_all_raise():
    with pytest.raises(ValueError, match="num_train_timesteps is 0; it must be 1 or more"):
        DDPMCarsScheduler(0)


def test_unknown_spacing_raises():
    with pytest.raises(ValueError, match=r"karras.*leading"):
        DDPMCarsScheduler(timestep_spacing="karras")


def test_unknown_prediction_type_raises():
    with pytest.raises(ValueError, match=r"flow.*v_prediction"):
        DDPMCarsScheduler(prediction_type="flow")


def test_unknown_variance_type_warns_and_acts_as_fixed_small(caplog: pytest.LogCaptureFixture):
    unknown = DDPMCarsScheduler(variance_type="tiny")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "'tiny'" in caplog.text
    assert "fixed_small" in caplog.text
    assert caplog.records[0].name == "ddpm_cars.scheduling_ddpm_cars"
    inputs = randn(1, 3, 4, 4, seed=1), 500, randn(1, 3, 4, 4)
    got = unknown.step(*inputs, generator=seeded(0)).prev_sample
    assert torch.equal(got, DDPMCarsScheduler().step(*inputs, generator=seeded(0)).prev_sample)


@pytest.mark.parametrize("variance_type", VARIANCES)
def test_known_variance_types_do_not_warn(variance_type: str, caplog: pytest.LogCaptureFixture):
    DDPMCarsScheduler(variance_type=variance_type)
    assert not caplog.records


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "sigmoid"])
def test_beta_end_above_1_neither_raises_nor_warns(schedule: str, recwarn: pytest.WarningsRecorder):
    scheduler = DDPMCarsScheduler(beta_end=2, beta_schedule=schedule)
    scheduler.set_timesteps(10)
    assert scheduler.betas[-1] == pytest.approx(2, rel=0.01)
    assert not recwarn.list


def test_300_training_timesteps():
    scheduler = DDPMCarsScheduler(num_train_timesteps=300)
    assert len(scheduler) == len(scheduler.betas) == 300
    assert scheduler.timesteps.tolist() == list(range(299, -1, -1))
    torch.testing.assert_close(scheduler.alphas_cumprod.double().numpy(), alpha_bars(300), rtol=1e-7, atol=0)
    x = randn(1, 3, 4, 4)
    for t in (299, 150, 0):
        assert scheduler.step(x, t, x).prev_sample.isfinite().all()
    with pytest.raises(ValueError, match="300"):
        scheduler.step(x, 300, x)
    scheduler.set_timesteps(300)
    assert scheduler.timesteps.tolist() == list(range(299, -1, -1))
    with pytest.raises(ValueError, match="300"):
        scheduler.set_timesteps(301)


UNUSUAL = {
    "num_train_timesteps": 300,
    "beta_start": 0.002,
    "beta_end": 0.03,
    "beta_schedule": "scaled_linear",
    "variance_type": "fixed_large",
    "clip_sample": False,
    "prediction_type": "v_prediction",
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.9,
    "clip_sample_range": 2.0,
    "sample_max_value": 3.0,
    "timestep_spacing": "trailing",
    "steps_offset": 1,
    "rescale_betas_zero_snr": True,
}


def settings(scheduler: SchedulerMixin) -> dict:
    return {name: scheduler.config[name] for name in UNUSUAL}


def test_compatibles_are_the_karras_family():
    assert {c.__name__ for c in DDPMCarsScheduler().compatibles} == {e.name for e in KarrasDiffusionSchedulers}


# Several of diffusers' schedulers call np.array on tensors.
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.parametrize("name", [e.name for e in KarrasDiffusionSchedulers])
def test_config_survives_a_round_trip_through_every_compatible_scheduler(name: str):
    ours = DDPMCarsScheduler(**UNUSUAL)
    other = getattr(diffusers, name).from_config(ours.config)
    assert type(other).__name__ == name
    assert other.config.num_train_timesteps == 300
    assert other.config.prediction_type == "v_prediction"
    back = DDPMCarsScheduler.from_config(other.config)
    assert type(back) is DDPMCarsScheduler
    assert settings(back) == settings(ours)
    assert torch.equal(back.betas, ours.betas)


def test_config_survives_a_json_file(tmp_path: Path):
    ours = DDPMCarsScheduler(**UNUSUAL)
    ours.save_config(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["scheduler_config.json"]
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert saved["_class_name"] == "DDPMScheduler"
    assert saved["_ddpm_cars"] == {"class": "ddpm_cars.scheduling_ddpm_cars.DDPMCarsScheduler"}
    assert {name: saved[name] for name in UNUSUAL} == UNUSUAL
    for scheduler in (
        DDPMCarsScheduler.from_pretrained(tmp_path),
        DDPMCarsScheduler.from_config(DDPMCarsScheduler.load_config(tmp_path)),
    ):
        assert settings(scheduler) == UNUSUAL
        assert torch.equal(scheduler.betas, ours.betas)
    stock = DDPMScheduler.from_pretrained(tmp_path)
    assert settings(stock) == UNUSUAL


def test_config_of_stock_is_loaded_from_a_json_file(tmp_path: Path):
    DDPMScheduler(**UNUSUAL).save_config(tmp_path)
    assert settings(DDPMCarsScheduler.from_pretrained(tmp_path)) == UNUSUAL


def test_trained_betas_survive_a_json_file(tmp_path: Path):
    betas = np.linspace(0.3, 0.01, 15)
    DDPMCarsScheduler(num_train_timesteps=15, trained_betas=betas).save_config(tmp_path)
    loaded = DDPMCarsScheduler.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.betas.numpy(), betas.astype(np.float32))


@pytest.mark.parametrize(
    "kind",
    [
        list,
        tuple,
        np.array,
        lambda betas: np.array(betas, dtype=np.float32),
        lambda betas: torch.tensor(betas, dtype=torch.float64),
        lambda betas: torch.nn.Parameter(torch.tensor(betas)),
        lambda betas: [np.float64(beta) for beta in betas],
    ],
    ids=["list", "tuple", "array", "float32", "tensor", "parameter", "scalars"],
)
def test_trained_betas_of_any_kind_are_kept_as_a_list(kind: Callable, tmp_path: Path):
    betas = np.linspace(0.01, 0.4, 30).tolist()
    for scheduler in (
        DDPMCarsScheduler(30, trained_betas=kind(betas)),
        DDPMCarsScheduler.from_config(DDPMScheduler().config, num_train_timesteps=30, trained_betas=kind(betas)),
        DDPMCarsScheduler.from_config({**DDPMScheduler(30).config, "trained_betas": kind(betas)}),
    ):
        assert type(scheduler.config.trained_betas) is list
        assert {type(beta) for beta in scheduler.config.trained_betas} == {float}
        np.testing.assert_allclose(scheduler.alphas_cumprod_float64, np.cumprod(1 - np.array(betas)), rtol=1e-5)
        scheduler.save_pretrained(tmp_path)
        again = DDPMCarsScheduler.from_pretrained(tmp_path)
        np.testing.assert_array_equal(again.alphas_cumprod_float64, scheduler.alphas_cumprod_float64)
        assert DDIMScheduler.from_pretrained(tmp_path).config.trained_betas == scheduler.config.trained_betas


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trained_betas": [0.1, 1.0, 0.1]}, r"trained_betas\[1\] is 1; every beta must be inside \(0, 1\)"),
        ({"trained_betas": torch.tensor([0.1, 0.0, 0.1])}, r"trained_betas\[1\] is 0;"),
        ({"trained_betas": [0.1, float("nan"), 0.1]}, r"trained_betas\[1\] is nan;"),
        ({"trained_betas": [0.1, 0.2, 1.5]}, r"trained_betas\[2\] is 1.5;"),
        ({"trained_betas": [-0.1, 0.2, 0.5]}, r"trained_betas\[0\] is -0.1;"),
        ({"trained_betas": torch.full((1, 3), 0.1)}, r"has the shape \(1, 3\); it must be a list of T numbers"),
        ({"trained_betas": 0.1}, r"has the shape \(\);"),
        ({"trained_betas": "linear"}, "must be a list of numbers, and is of type str"),
        ({"trained_betas": [0.1, [0.2], 0.3]}, "must be a list of numbers, and is of type list"),
        ({"trained_betas": [0.9, 0.99]}, "has 2 values and num_train_timesteps is 3: set it to 2"),
    ],
)
def test_trained_betas_that_are_no_betas_are_one_error(given: dict, message: str):
    for make in (DDPMCarsScheduler, lambda **c: DDPMCarsScheduler.from_config({**DDPMScheduler().config, **c})):
        with pytest.raises(ValueError, match=message):
            make(num_train_timesteps=3, **given)


def test_a_saved_model_with_betas_beyond_its_timesteps_loads_with_the_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    betas = np.linspace(0.1, 0.7, 6).tolist()
    DDPMScheduler(4, trained_betas=betas).save_pretrained(tmp_path)
    scheduler, stock = (c.from_pretrained(tmp_path) for c in (DDPMCarsScheduler, DDPMScheduler))
    np.testing.assert_allclose(scheduler.alphas_cumprod, stock.alphas_cumprod[:4], rtol=1e-6)
    assert "has 6 trained_betas and 4 num_train_timesteps: the first 4 are used" in caplog.text
    with pytest.raises(ValueError, match="has 6 values and num_train_timesteps is 4"):
        DDPMCarsScheduler(4, trained_betas=betas)
    with pytest.raises(ValueError, match="has 4 values and num_train_timesteps is 6"):
        DDPMCarsScheduler.from_config(scheduler.config, num_train_timesteps=6)


def test_the_last_of_trained_betas_may_be_1(tmp_path: Path):
    DDPMCarsScheduler(3, trained_betas=[0.1, 0.5, 1.0], prediction_type="sample").save_pretrained(tmp_path)
    assert DDPMCarsScheduler.from_pretrained(tmp_path).alphas_cumprod_float64[-1] == 0


def test_numbers_of_numpy_and_torch_are_kept_as_pythons_own(tmp_path: Path):
    scheduler = DDPMCarsScheduler(
        np.int64(40), torch.tensor(0.001, dtype=torch.float64), np.float64(0.03), clip_sample=np.bool_(False)
    )
    expected = DDPMCarsScheduler(40, 0.001, 0.03, clip_sample=False)
    assert scheduler.config == expected.config
    np.testing.assert_array_equal(scheduler.alphas_cumprod_float64, expected.alphas_cumprod_float64)
    scheduler.register_to_config(_note={"of": np.array([1.0]), "and": (torch.tensor(2),)})
    scheduler.save_pretrained(tmp_path)
    assert DDPMCarsScheduler.from_pretrained(tmp_path).config["_note"] == {"of": [1.0], "and": [2]}


def warnings_of(caplog: pytest.LogCaptureFixture, **config) -> list[str]:
    caplog.clear()
    DDPMCarsScheduler(**config)
    assert {record.levelname for record in caplog.records} <= {"WARNING"}
    return [record.getMessage() for record in caplog.records]


def test_the_tutorials_schedule_gets_one_warning_with_its_numbers_and_the_cure(caplog: pytest.LogCaptureFixture):
    (message,) = warnings_of(caplog, num_train_timesteps=300)
    alpha_bar = alpha_bars(300)[-1]
    assert f"alpha_bar_T is {alpha_bar:.3g}" in message
    assert f"signal-to-noise ratio of {alpha_bar / (1 - alpha_bar):.3g}" in message
    assert "Train with scale_betas_for_timesteps;" in message
    assert "fit_init_noise" in message


def test_a_start_that_was_measured_is_not_warned_of_again(caplog: pytest.LogCaptureFixture, tmp_path: Path):
    scheduler = DDPMCarsScheduler(num_train_timesteps=300)
    fit_init_noise(torch.rand(8, 3, 8, 8), scheduler)
    scheduler.save_config(tmp_path)
    caplog.clear()
    loaded = DDPMCarsScheduler.from_pretrained(tmp_path)
    copies = [loaded, DDPMCarsScheduler.from_config(scheduler.config), copy.deepcopy(scheduler)]
    assert all(s.config["_init_noise"] == scheduler.config["_init_noise"] for s in copies)
    assert not caplog.records
    scheduler.register_to_config(_init_noise=None)
    DDPMCarsScheduler.from_config(scheduler.config)
    assert "samples turn grey" in caplog.text


STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize(
    "config",
    [
        {},
        STABLE_DIFFUSION,
        {**STABLE_DIFFUSION, "beta_schedule": "linear"},
        {"num_train_timesteps": 300, "scale_betas_for_timesteps": True},
        {"num_train_timesteps": 300, "beta_schedule": "squaredcos_cap_v2"},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    ],
    ids=str,
)
def test_sound_schedules_are_not_warned_of(config: dict, caplog: pytest.LogCaptureFixture):
    assert warnings_of(caplog, **config) == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"beta_end": 2.0}, ["betas run from 0.0001 to 2", "inside (0, 1)", "NaN"]),
        ({"beta_start": -0.1}, ["betas run from -0.1"]),
        ({"beta_start": 0.0}, ["betas run from 0 to 0.02", "NaN"]),
        ({"rescale_betas_zero_snr": True}, ["zero terminal SNR", "epsilon", "v_prediction"]),
        ({"num_train_timesteps": 1, "rescale_betas_zero_snr": True}, ["betas run from nan", "NaN"]),
        # Ends at 0.03 at any T.
        ({"beta_schedule": "laplace"}, ["alpha_bar_T is 0.03", "Train with rescale_betas_zero_snr and pred"]),
        # Scaled, these would have a beta of 1.
        ({"num_train_timesteps": 20}, ["Train with beta_schedule squaredcos_cap_v2"]),
        (
            {"num_train_timesteps": 21},
            ["Train with scale_betas_for_timesteps;", "ddpm-cars calibrate --fit_init_noise"],
        ),
    ],
)
def test_mistakes_that_stock_accepts_silently_are_warned_of(
    config: dict, words: list[str], caplog: pytest.LogCaptureFixture
):
    (message,) = warnings_of(caplog, **config)
    for word in words:
        assert word in message
    caplog.clear()
    DDPMScheduler(**config)
    assert not caplog.records


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "sigmoid"])
@pytest.mark.parametrize("T", [50, 300, 4000])
def test_scaled_betas_are_multiplied_by_1000_over_T(T: int, schedule: str):
    plain = DDPMCarsScheduler(T, beta_schedule=schedule)
    scaled = DDPMCarsScheduler(T, beta_schedule=schedule, scale_betas_for_timesteps=True)
    torch.testing.assert_close(scaled.betas, plain.betas * (1000 / T))
    # So any T ends at the noise level of 1000.
    of_1000 = float(DDPMCarsScheduler(beta_schedule=schedule).alphas_cumprod[-1].log())
    assert float(scaled.alphas_cumprod[-1].log()) == pytest.approx(of_1000, rel=0.25)


@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2", "laplace"])
def test_schedules_that_suit_any_length_are_not_scaled(schedule: str):
    plain = DDPMCarsScheduler(300, beta_schedule=schedule)
    scaled = DDPMCarsScheduler(300, beta_schedule=schedule, scale_betas_for_timesteps=True)
    assert torch.equal(scaled.betas, plain.betas)


def test_scaling_that_would_leave_the_range_is_refused():
    with pytest.raises(ValueError, match=r"15 timesteps makes a beta of 1\.333.*num_train_timesteps above 20"):
        DDPMCarsScheduler(15, scale_betas_for_timesteps=True)


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_other_schedulers_get_the_scaled_noise_levels(name: str, rescale: bool, tmp_path: Path):
    ours = DDPMCarsScheduler(
        300, scale_betas_for_timesteps=True, rescale_betas_zero_snr=rescale, prediction_type="v_prediction"
    )
    ours.save_pretrained(tmp_path)
    for other in (
        getattr(diffusers, name).from_config(ours.config),
        getattr(diffusers, name).from_pretrained(tmp_path),
    ):
        np.testing.assert_allclose(other.alphas_cumprod[:-1], ours.alphas_cumprod[:-1], rtol=1e-3, atol=1e-7)
        back = DDPMCarsScheduler.from_config(other.config)
        assert back.config.scale_betas_for_timesteps is True
        assert torch.equal(back.betas, ours.betas)
    # Another T scales anew.
    longer = DDPMCarsScheduler.from_config(ours.config, num_train_timesteps=500)
    assert torch.equal(
        longer.betas,
        DDPMCarsScheduler(500, scale_betas_for_timesteps=True, rescale_betas_zero_snr=rescale).betas,
    )


def test_other_betas_beside_scaled_ones_are_refused():
    betas = np.linspace(0.001, 0.3, 100)
    with pytest.raises(ValueError, match=r"two noise schedules.*scale_betas_for_timesteps=False"):
        DDPMCarsScheduler(100, trained_betas=betas, scale_betas_for_timesteps=True)
    scaled = DDPMCarsScheduler(100, scale_betas_for_timesteps=True)
    with pytest.raises(ValueError, match="two noise schedules"):
        DDPMCarsScheduler.from_config(scaled.config, trained_betas=betas)
    given = DDPMCarsScheduler.from_config(scaled.config, trained_betas=betas, scale_betas_for_timesteps=False)
    np.testing.assert_allclose(given.betas, betas, rtol=1e-6)


@pytest.mark.parametrize(
    "change", [{"trained_betas": np.linspace(0.001, 0.3, 100).tolist()}, {"beta_schedule": "squaredcos_cap_v2"}]
)
def test_betas_that_another_class_took_from_ours_or_was_given_are_taken_back(change: dict):
    scaled = DDPMCarsScheduler(100, scale_betas_for_timesteps=True)
    other = DDPMScheduler.from_config(scaled.config, **change)
    back = DDPMCarsScheduler.from_config(other.config)
    np.testing.assert_allclose(back.betas, other.betas, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "LCMScheduler", "UnCLIPScheduler"])
def test_defaults_of_one_class_are_no_defaults_of_another(name: str):
    other = getattr(diffusers, name)
    theirs = other()
    assert not np.allclose(theirs.alphas_cumprod, alpha_bars(), rtol=0.1)
    np.testing.assert_allclose(
        DDPMCarsScheduler.from_config(theirs.config).alphas_cumprod, theirs.alphas_cumprod, rtol=1e-3, atol=1e-7
    )
    if name != "UnCLIPScheduler":
        handed_on = other.from_config(DDPMCarsScheduler().config)
        np.testing.assert_allclose(handed_on.alphas_cumprod, alpha_bars(), rtol=1e-3)


def test_stock_reads_our_config_without_a_warning(caplog: pytest.LogCaptureFixture, tmp_path: Path):
    DDPMCarsScheduler().save_pretrained(tmp_path)
    saved = DDPMCarsScheduler.from_pretrained(tmp_path)
    stock = dict(DDPMScheduler.from_pretrained(tmp_path).config)
    assert stock.pop("_ddpm_cars") == {"class": "ddpm_cars.scheduling_ddpm_cars.DDPMCarsScheduler"}
    assert dict(saved.config) == stock | {"_class_name": "DDPMCarsScheduler"}
    assert saved.config.scale_betas_for_timesteps is False
    assert saved.config.max_last_noise_grey_levels == 1.0
    DDPMScheduler.from_pretrained(tmp_path)
    DDPMScheduler.from_config(saved.config)
    own = DDPMCarsScheduler(300, scale_betas_for_timesteps=True, max_last_noise_grey_levels=None)
    for other in (DDPMScheduler, diffusers.DDIMScheduler, diffusers.EulerDiscreteScheduler):
        other.from_config(DDPMCarsScheduler().config)
        back = DDPMCarsScheduler.from_config(other.from_config(own.config).config)
        assert back.config.scale_betas_for_timesteps is True
        assert back.config.max_last_noise_grey_levels is None
    assert not caplog.records
    own.register_to_config(scale_betas_for_timesteps=False, max_last_noise_grey_levels=1.0)
    assert (own.config.scale_betas_for_timesteps, own.config["max_last_noise_grey_levels"]) == (False, 1.0)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"])
def test_a_class_without_a_variance_is_none_to_warn_of(name: str, caplog: pytest.LogCaptureFixture, tmp_path: Path):
    getattr(diffusers, name)().save_pretrained(tmp_path)
    caplog.clear()
    scheduler = DDPMCarsScheduler.from_pretrained(tmp_path)
    assert scheduler.config.variance_type == "fixed_small"
    assert not caplog.records


def test_values_given_by_position_reach_other_schedulers():
    ours = DDPMCarsScheduler(300, 0.001)
    for other in (diffusers.DDIMScheduler, DDPMScheduler, DDPMCarsScheduler):
        config = other.from_config(ours.config).config
        assert (config.num_train_timesteps, config.beta_start) == (300, 0.001)


def test_own_settings_survive_a_json_file(tmp_path: Path):
    for value in (None, 2.0):
        DDPMCarsScheduler(variance_type="analytic", max_last_noise_grey_levels=value).save_pretrained(tmp_path)
        loaded = DDPMCarsScheduler.from_pretrained(tmp_path)
        assert loaded.config.max_last_noise_grey_levels == value
        assert loaded.config.variance_type == "analytic"


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (diffusers.UniPCMultistepScheduler(use_karras_sigmas=True), "use_karras_sigmas=True"),
        (diffusers.DPMSolverMultistepScheduler(use_lu_lambdas=True), "use_lu_lambdas=True"),
        (diffusers.CogVideoXDDIMScheduler(snr_shift_scale=3.0), "snr_shift_scale=3.0"),
    ],
    ids=lambda value: getattr(type(value), "__name__", ""),
)
def test_noise_levels_that_are_not_implemented_raise(other: SchedulerMixin, name: str):
    option, value = name.split("=")
    with pytest.raises(NotImplementedError, match=f"{name}.*does not implement"):
        DDPMCarsScheduler.from_config(other.config)
    with pytest.raises(NotImplementedError, match=name):
        DDPMCarsScheduler.from_config(DDPMScheduler().config, **{option: json.loads(value.lower())})


def test_an_option_can_be_turned_off_as_the_message_says(tmp_path: Path):
    other = diffusers.UniPCMultistepScheduler(use_karras_sigmas=True, prediction_type="v_prediction")
    ours = DDPMCarsScheduler.from_config(other.config, use_karras_sigmas=False)
    assert ours.config.prediction_type == "v_prediction"
    other.save_pretrained(tmp_path)
    with pytest.raises(NotImplementedError, match="use_karras_sigmas"):
        DDPMCarsScheduler.from_pretrained(tmp_path)
    assert (
        DDPMCarsScheduler.from_pretrained(tmp_path, use_karras_sigmas=False).config.prediction_type == "v_prediction"
    )


@pytest.mark.parametrize(
    "other",
    [
        diffusers.FlowMatchEulerDiscreteScheduler(),
        diffusers.ScoreSdeVeScheduler(),
        diffusers.EDMEulerScheduler(),
        diffusers.EDMDPMSolverMultistepScheduler(),
        diffusers.SCMScheduler(),
        DDPMWuerstchenScheduler(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_processes_that_are_not_made_of_betas_raise(other: SchedulerMixin, tmp_path: Path):
    with pytest.raises(NotImplementedError, match="not made of betas"):
        DDPMCarsScheduler.from_config(other.config)
    other.save_pretrained(tmp_path)
    with pytest.raises(NotImplementedError, match=type(other).__name__):
        DDPMCarsScheduler.from_pretrained(tmp_path)
