"""Where diffusers' DDPMScheduler is right, DDPMCarsScheduler gives the same numbers from the same seed.

Two references are used. Stock as it is multiplies float32 alphas: for T = 1000 that moves alpha_bar by about 1e-6, and
beta = 1 - alpha_bar_t / alpha_bar_s of the smallest steps (1e-4) by about 1e-3 of itself, so steps agree to 3e-4 only.
Stock given float64 tables has no such error, and steps agree to float32 rounding.
"""

import inspect
import itertools

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler

from ddpm_cars import DDPMCarsScheduler

# Stock computes from float32 tables, which are off by up to 1e-3 of a small beta, and processors differ.
STOCK_TOLERANCE = {"rtol": 3e-3, "atol": 3e-3}
# Both sides compute from float64 tables.
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}
SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid"]
VARIANCES = ["fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range"]
PREDICTIONS = ["epsilon", "sample", "v_prediction"]
CLIPPINGS = {
    "clip": {"clip_sample": True, "clip_sample_range": 0.7},
    "threshold": {"thresholding": True, "sample_max_value": 3.0, "dynamic_thresholding_ratio": 0.9},
    "neither": {"clip_sample": False},
}


def both(**config) -> tuple[DDPMCarsScheduler, DDPMScheduler]:
    return DDPMCarsScheduler(**config), DDPMScheduler(**config)


def in_float64(stock: DDPMScheduler, betas: np.ndarray) -> DDPMScheduler:
    stock.betas = torch.from_numpy(betas)
    stock.alphas = 1 - stock.betas
    stock.alphas_cumprod = torch.cumprod(stock.alphas, dim=0)
    stock.one = torch.tensor(1.0, dtype=torch.float64)
    return stock


def linear_betas(T: int = 1000) -> np.ndarray:
    return np.linspace(0.0001, 0.02, T)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def step_inputs(variance_type: str, shape: tuple[int, ...] = (3, 2, 4, 4)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = seeded(3)
    x_t = torch.randn(shape, generator=generator)
    model_output = torch.randn(shape, generator=generator)
    if variance_type == "learned":
        model_output = torch.cat([model_output, torch.rand(shape, generator=generator)], dim=1)
    if variance_type == "learned_range":
        model_output = torch.cat([model_output, 2 * torch.rand(shape, generator=generator) - 1], dim=1)
    return model_output, x_t


def some_timesteps(scheduler: DDPMScheduler) -> list[int]:
    chosen = scheduler.timesteps.tolist()
    return sorted({*chosen[:2], chosen[len(chosen) // 2], *chosen[-3:]}, reverse=True)


def assert_same_step(ours: DDPMCarsScheduler, reference: DDPMScheduler, *inputs, **tolerance) -> None:
    generators = seeded(11), seeded(11)
    got = ours.step(*inputs, generator=generators[0])
    expected = reference.step(*inputs, generator=generators[1])
    torch.testing.assert_close(got.prev_sample, expected.prev_sample, **tolerance)
    torch.testing.assert_close(got.pred_original_sample, expected.pred_original_sample, **tolerance)
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


def test_constructor_begins_with_the_same_arguments_in_the_same_order_with_the_same_defaults():
    def arguments(scheduler: type) -> list[tuple]:
        return [(p.name, p.default, p.kind) for p in inspect.signature(scheduler.__init__).parameters.values()]

    of_stock = arguments(DDPMScheduler)
    assert arguments(DDPMCarsScheduler)[: len(of_stock)] == of_stock


def test_nothing_public_is_missing():
    def public(scheduler: object) -> set[str]:
        return {name for name in dir(scheduler) if not name.startswith("_")}

    own = {"alphas_cumprod_float64", "noise_std", "original_sample_variance", "predict_original_sample"}
    own |= {"posterior_at", "set_calibration", "signal_and_noise_scales"}
    assert public(DDPMCarsScheduler()) == public(DDPMScheduler()) | own


@pytest.mark.parametrize(
    "method", ["set_timesteps", "step", "add_noise", "get_velocity", "previous_timestep", "_get_variance"]
)
def test_methods_take_the_same_arguments(method: str):
    def arguments(scheduler: type) -> list[tuple]:
        return [(p.name, p.default) for p in inspect.signature(getattr(scheduler, method)).parameters.values()]

    assert arguments(DDPMCarsScheduler) == arguments(DDPMScheduler)


def test_attributes_that_pipelines_and_training_scripts_read():
    ours, stock = both(num_train_timesteps=77)
    assert len(ours) == len(stock) == 77
    assert ours.order == stock.order == 1
    assert ours.init_noise_sigma == stock.init_noise_sigma == 1.0
    assert set(DDPMCarsScheduler._compatibles) == set(DDPMScheduler._compatibles)
    assert set(ours.compatibles) == set(stock.compatibles)
    assert ours.variance_type == stock.variance_type
    assert ours.num_inference_steps is None
    assert ours.custom_timesteps is False
    assert ours.one == stock.one
    assert torch.equal(ours.timesteps, stock.timesteps)
    assert ours.timesteps.dtype == stock.timesteps.dtype
    assert {k: ours.config[k] for k in stock.config if not k.startswith("_")}.items() <= dict(stock.config).items()
    x = torch.randn(2, 3, 4, 4)
    assert ours.scale_model_input(x, 5) is x
    assert ours.scale_model_input(x) is x


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("T", [20, 300, 1000])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_noise_schedules_are_equal(schedule: str, T: int, rescale: bool):
    ours, stock = both(num_train_timesteps=T, beta_schedule=schedule, rescale_betas_zero_snr=rescale)
    for name in ("betas", "alphas", "alphas_cumprod"):
        got, expected = getattr(ours, name), getattr(stock, name)
        assert got.dtype == expected.dtype
        # Rescaling divides neighbours in stock's float32 cumulative product, whose square roots end near 0.
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 if rescale else 1e-6)
    if rescale:
        assert ours.alphas_cumprod[-1] == 0


@pytest.mark.parametrize("as_list", [False, True])
def test_trained_betas_are_equal(as_list: bool):
    betas = np.linspace(0.3, 0.01, 15)
    ours, stock = both(num_train_timesteps=15, trained_betas=betas.tolist() if as_list else betas)
    torch.testing.assert_close(ours.betas, stock.betas)
    torch.testing.assert_close(ours.alphas_cumprod, stock.alphas_cumprod)


def test_unknown_schedule_raises_the_same_error():
    for scheduler in (DDPMCarsScheduler, DDPMScheduler):
        with pytest.raises(NotImplementedError, match="cubic"):
            scheduler(beta_schedule="cubic")


@pytest.mark.parametrize("T", [1, 20, 300, 1000])
@pytest.mark.parametrize("spacing", ["leading", "linspace"])
def test_set_timesteps_is_equal_for_leading_and_linspace(spacing: str, T: int):
    ours, stock = both(num_train_timesteps=T, timestep_spacing=spacing)
    for n in {1, min(2, T), min(7, T), T // 2 or 1, T - 1 or 1, T}:
        ours.set_timesteps(n)
        stock.set_timesteps(n)
        assert torch.equal(ours.timesteps, stock.timesteps), n
        assert ours.timesteps.dtype == stock.timesteps.dtype
        assert ours.num_inference_steps == stock.num_inference_steps == n


def test_set_timesteps_is_equal_for_leading_with_an_offset_that_fits():
    ours, stock = both(steps_offset=1)
    ours.set_timesteps(50)
    stock.set_timesteps(50)
    assert torch.equal(ours.timesteps, stock.timesteps)
    assert ours.timesteps[-1] == 1


@pytest.mark.parametrize("T", [20, 300, 1000])
def test_set_timesteps_is_equal_for_trailing_where_stock_gives_n_valid_timesteps(T: int):
    ours, stock = both(num_train_timesteps=T, timestep_spacing="trailing")
    compared = 0
    for n in range(1, T + 1):
        stock.set_timesteps(n)
        if len(stock.timesteps) != n or stock.timesteps.min() < 0:
            continue
        compared += 1
        ours.set_timesteps(n)
        assert torch.equal(ours.timesteps, stock.timesteps), n
    assert compared > T / 2


def test_set_timesteps_is_equal_for_custom_timesteps():
    custom = [901, 500, 499, 17, 0]
    ours, stock = both()
    ours.set_timesteps(timesteps=custom)
    stock.set_timesteps(timesteps=custom)
    assert torch.equal(ours.timesteps, stock.timesteps)
    assert ours.custom_timesteps
    assert stock.custom_timesteps
    ours.set_timesteps(10)
    stock.set_timesteps(10)
    assert ours.custom_timesteps is stock.custom_timesteps is False


@pytest.mark.parametrize("clipping", CLIPPINGS)
@pytest.mark.parametrize("spacing", ["leading", "linspace"])
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("variance_type", VARIANCES)
def test_step_is_equal(variance_type: str, prediction_type: str, spacing: str, clipping: str):
    ours, stock = both(
        variance_type=variance_type,
        prediction_type=prediction_type,
        timestep_spacing=spacing,
        **CLIPPINGS[clipping],
    )
    exact = in_float64(DDPMScheduler.from_config(stock.config), linear_betas())
    model_output, x_t = step_inputs(variance_type)
    for n in (None, 10, 1000):
        if n is not None:
            for scheduler in (ours, stock, exact):
                scheduler.set_timesteps(n)
        for t in some_timesteps(stock):
            assert_same_step(ours, stock, model_output, t, x_t, **STOCK_TOLERANCE)
            assert_same_step(ours, exact, model_output, t, x_t, **ROUNDING)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_step_is_equal_for_every_noise_schedule(schedule: str):
    ours, stock = both(num_train_timesteps=300, beta_schedule=schedule, variance_type="fixed_large")
    exact = in_float64(DDPMScheduler.from_config(stock.config), stock.betas.double().numpy())
    model_output, x_t = step_inputs("fixed_large")
    for scheduler in (ours, exact):
        scheduler.set_timesteps(15)
    for t in ours.timesteps.tolist():
        # The betas themselves are stock's float32 ones here.
        assert_same_step(ours, exact, model_output, t, x_t, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_step_is_equal_at_zero_terminal_snr(prediction_type: str):
    ours, stock = both(
        prediction_type=prediction_type, rescale_betas_zero_snr=True, timestep_spacing="linspace", clip_sample=False
    )
    ours.set_timesteps(20)
    stock.set_timesteps(20)
    model_output, x_t = step_inputs("fixed_small")
    for t in stock.timesteps.tolist():
        assert_same_step(ours, stock, model_output, t, x_t, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("variance_type", VARIANCES)
def test_step_is_equal_along_custom_timesteps(variance_type: str):
    ours, stock = both(variance_type=variance_type)
    in_float64(stock, linear_betas())
    for scheduler in (ours, stock):
        scheduler.set_timesteps(timesteps=[999, 700, 699, 30, 0])
    model_output, x_t = step_inputs(variance_type)
    for t in stock.timesteps.tolist():
        assert_same_step(ours, stock, model_output, t, x_t, **ROUNDING)


@pytest.mark.parametrize("n", [None, 10])
def test_step_takes_ints_0d_tensors_and_floats(n: int | None):
    ours, stock = both()
    if n is not None:
        ours.set_timesteps(n)
        stock.set_timesteps(n)
    model_output, x_t = step_inputs("fixed_small")
    for t in stock.timesteps[[0, 3, -2, -1]]:
        expected = stock.step(model_output, t, x_t, generator=seeded(0)).prev_sample
        for same_t in (t, t.to(torch.int32), int(t), float(t), t.float()):
            got = ours.step(model_output, same_t, x_t, generator=seeded(0)).prev_sample
            torch.testing.assert_close(got, expected, **STOCK_TOLERANCE)


@pytest.mark.parametrize("variance_type", VARIANCES)
def test_step_takes_a_list_of_generators(variance_type: str):
    ours, stock = both(variance_type=variance_type)
    in_float64(stock, linear_betas())
    ours.set_timesteps(10)
    stock.set_timesteps(10)
    model_output, x_t = step_inputs(variance_type)
    for t in stock.timesteps.tolist():
        our_generators, stock_generators = ([seeded(i) for i in range(3)] for _ in range(2))
        got = ours.step(model_output, t, x_t, generator=our_generators).prev_sample
        expected = stock.step(model_output, t, x_t, generator=stock_generators).prev_sample
        torch.testing.assert_close(got, expected, **ROUNDING)
        for a, b in zip(our_generators, stock_generators, strict=True):
            assert torch.equal(a.get_state(), b.get_state())


def test_step_draws_from_the_global_generator_when_none_is_given():
    ours, stock = both()
    model_output, x_t = step_inputs("fixed_small")
    torch.manual_seed(0)
    got = ours.step(model_output, 500, x_t).prev_sample
    our_next = torch.rand(())
    torch.manual_seed(0)
    expected = stock.step(model_output, 500, x_t).prev_sample
    torch.testing.assert_close(got, expected, **STOCK_TOLERANCE)
    assert torch.equal(our_next, torch.rand(()))


def test_step_returns_the_same_tuple():
    ours, stock = both()
    model_output, x_t = step_inputs("fixed_small")
    got = ours.step(model_output, 700, x_t, generator=seeded(0), return_dict=False)
    expected = stock.step(model_output, 700, x_t, generator=seeded(0), return_dict=False)
    assert type(got) is type(expected) is tuple
    assert len(got) == len(expected) == 2
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, **STOCK_TOLERANCE)


@pytest.mark.parametrize("shape", [(5, 2, 7), (5, 3, 4, 6), (5, 2, 3, 4, 2)], ids=["3-D", "4-D", "5-D"])
def test_step_is_equal_for_any_number_of_dimensions(shape: tuple[int, ...]):
    for variance_type, clipping in itertools.product(("fixed_small", "learned_range"), CLIPPINGS):
        ours, stock = both(variance_type=variance_type, **CLIPPINGS[clipping])
        in_float64(stock, linear_betas())
        model_output, x_t = step_inputs(variance_type, shape)
        assert_same_step(ours, stock, model_output, 400, x_t, **ROUNDING)


@pytest.mark.parametrize("method", ["add_noise", "get_velocity"])
@pytest.mark.parametrize("shape", [(5, 2, 7), (5, 3, 4, 6), (5, 2, 3, 4, 2)], ids=["3-D", "4-D", "5-D"])
def test_forward_process_is_equal(method: str, shape: tuple[int, ...]):
    ours, stock = both()
    x_0, eps = torch.randn(shape, generator=seeded(0)), torch.randn(shape, generator=seeded(1))
    for t in (torch.tensor([0, 1, 400, 998, 999]), torch.tensor([3, 3, 3, 3, 3], dtype=torch.int32), torch.tensor(7)):
        got, expected = getattr(ours, method)(x_0, eps, t), getattr(stock, method)(x_0, eps, t)
        # Stock's float32 1 - alpha_bar of the first timesteps, 1e-4, is off by 6e-8.
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=5e-5)
        assert got.dtype == expected.dtype
        assert got.shape == shape


@pytest.mark.parametrize("method", ["add_noise", "get_velocity"])
def test_forward_process_is_equal_in_float64(method: str):
    ours, stock = both()
    in_float64(stock, linear_betas())
    x_0, eps = (torch.randn(5, 3, 4, 4, generator=seeded(i), dtype=torch.float64) for i in range(2))
    t = torch.tensor([0, 1, 400, 998, 999])
    got, expected = getattr(ours, method)(x_0, eps, t), getattr(stock, method)(x_0, eps, t)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("config", [{}, {"timestep_spacing": "linspace"}, {"steps_offset": 1}])
def test_previous_timestep_is_equal(config: dict):
    ours, stock = both(num_train_timesteps=60, **config)
    for n in (None, 7, 60 - 1):
        if n is not None:
            ours.set_timesteps(n)
            stock.set_timesteps(n)
        for t in stock.timesteps:
            expected = int(stock.previous_timestep(t))
            assert int(ours.previous_timestep(t)) == expected
            assert int(ours.previous_timestep(int(t))) == expected
        batch = ours.previous_timestep(stock.timesteps)
        assert batch.tolist() == [int(stock.previous_timestep(t)) for t in stock.timesteps]
        assert batch.dtype == torch.int64


@pytest.mark.parametrize("n", [None, 10])
@pytest.mark.parametrize("variance_type", VARIANCES)
def test_get_variance_is_equal(variance_type: str, n: int | None):
    ours, stock = both(variance_type=variance_type)
    in_float64(stock, linear_betas())
    if n is not None:
        ours.set_timesteps(n)
        stock.set_timesteps(n)
    predicted = torch.linspace(0.01, 0.9, 24).view(2, 3, 2, 2)
    for t in some_timesteps(stock):
        for named in (None, "fixed_large", variance_type):
            got = ours._get_variance(t, predicted, variance_type=named)
            expected = stock._get_variance(t, predicted, variance_type=named)
            torch.testing.assert_close(got, expected, check_dtype=False, rtol=1e-6, atol=1e-30)


def test_noised_training_batch_and_loss_are_equal(make_unet):
    ours, stock = both(num_train_timesteps=50)
    unet = make_unet()
    x_0, eps = torch.rand(4, 3, 8, 8, generator=seeded(0)) * 2 - 1, torch.randn(4, 3, 8, 8, generator=seeded(1))
    t = torch.tensor([0, 10, 30, 49])
    with torch.no_grad():
        losses = [
            torch.nn.functional.mse_loss(unet(scheduler.add_noise(x_0, eps, t), t).sample, eps)
            for scheduler in (ours, stock)
        ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)


@pytest.mark.parametrize("T", [20, 1000])
# An untrained network's second half may be negative, which is no variance: hence no "learned".
@pytest.mark.parametrize("variance_type", [name for name in VARIANCES if name != "learned"])
def test_whole_chains_through_a_unet_are_equal(make_unet, variance_type: str, T: int):
    unet = make_unet(out_channels=6 if variance_type == "learned_range" else 3)
    ours, stock = both(num_train_timesteps=T, variance_type=variance_type)
    images = [
        DDPMPipeline(unet, scheduler)(
            batch_size=2, generator=seeded(0), num_inference_steps=20, output_type="np"
        ).images
        for scheduler in (ours, stock)
    ]
    # Twenty steps of the tolerance above, in images of range 1.
    np.testing.assert_allclose(images[0], images[1], rtol=0, atol=1e-3)
    assert images[0].std() > 0.05
