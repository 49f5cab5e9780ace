"""Classes with names, and guidance towards them, against closed forms and loops that call the network twice."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    ConfigMixin,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    ModelMixin,
    UNet2DModel,
)
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.portable.denoising import guided_output

KINDS = ["epsilon", "sample", "v_prediction"]
NAMES = {0: "red cars", 1: "vans, buses"}
NO_CLASS = 2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def short(scheduler_class: type = DDPMCarsScheduler, **config):
    return scheduler_class(**{"num_train_timesteps": 10, "beta_end": 0.5, **config})


@pytest.fixture(scope="module")
def guided_unet(make_unet: Callable[..., UNet2DModel]) -> UNet2DModel:
    return make_unet(num_class_embeds=3)


@pytest.fixture
def pipe(guided_unet: UNet2DModel) -> DDPMCarsPipeline:
    return DDPMCarsPipeline(guided_unet, short(), NAMES)


@pytest.fixture
def forward_sizes(guided_unet: UNet2DModel) -> Iterator[list[int]]:
    """The number of rows of every forward pass."""
    sizes: list[int] = []
    hook = guided_unet.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    yield sizes
    hook.remove()


def draw_by_hand(
    unet: UNet2DModel, scheduler, labels: list[int], guidance_scale: float, num_steps: int = 10
) -> torch.Tensor:
    """Sample in a plain loop with one forward pass for the classes and one without; variances are of the classes."""
    generator, n = seeded(), len(labels)
    learns = unet.config.out_channels > unet.config.in_channels
    samples_learned = learns and isinstance(scheduler, DDPMScheduler | DDPMCarsScheduler)
    scheduler.set_timesteps(num_steps)
    x_t = torch.randn(n, 3, 8, 8, generator=generator) * scheduler.init_noise_sigma
    with torch.no_grad():
        for t in scheduler.timesteps:
            model_input = scheduler.scale_model_input(x_t, t)
            of_class = unet(model_input, t, class_labels=torch.tensor(labels)).sample
            of_none = unet(model_input, t, class_labels=torch.tensor([NO_CLASS] * n)).sample
            output = (1 - guidance_scale) * of_none[:, :3] + guidance_scale * of_class[:, :3]
            if samples_learned and scheduler.config.variance_type == "learned_range":
                output = torch.cat([output, of_class[:, 3:]], dim=1)
            randomness = {} if isinstance(scheduler, DPMSolverMultistepScheduler) else {"generator": generator}
            x_t = scheduler.step(output, t, x_t, **randomness).prev_sample
    return x_t.clamp(-1, 1)


class Gaussians(ModelMixin, ConfigMixin):
    """The exact predictions for x_0 ~ N(mean, std^2), the mean being that of the class."""

    @register_to_config
    def __init__(self, means=(-0.3, 0.1, -0.1), std=0.1, kind="epsilon", betas=(0.1,), class_embed_type=None):
        super().__init__()
        self.register_to_config(num_class_embeds=len(means), in_channels=3, out_channels=3, sample_size=8)
        self.class_means = torch.nn.Parameter(torch.tensor(means))
        self.alpha_bar = torch.from_numpy(np.cumprod(1 - np.array(betas)))

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor) -> UNet2DOutput:
        alpha_bar, std = self.alpha_bar[int(t)], self.config.std
        a, b = float(alpha_bar**0.5), float((1 - alpha_bar) ** 0.5)
        mean = self.class_means[class_labels].view(-1, 1, 1, 1)
        eps_hat = b * (x_t - a * mean) / (a**2 * std**2 + b**2)
        x_0_hat = mean + a * std**2 * (x_t - a * mean) / (a**2 * std**2 + b**2)
        outputs = {"epsilon": eps_hat, "sample": x_0_hat, "v_prediction": a * eps_hat - b * x_0_hat}
        return UNet2DOutput(sample=outputs[self.config.kind])


def moments_of_samples(betas: np.ndarray, mean: float, std: float) -> tuple[float, float]:
    """Follow mean and variance through equation 7 of Ho et al. 2020 with the exact x_0_hat of N(mean, std^2)."""
    alpha_bar = np.cumprod(1 - betas)
    m, variance = 0.0, 1.0
    for t in range(len(betas) - 1, -1, -1):
        before = alpha_bar[t - 1] if t else 1.0
        a, b_squared = np.sqrt(alpha_bar[t]), 1 - alpha_bar[t]
        gain = a * std**2 / (a**2 * std**2 + b_squared)
        x_0_weight = np.sqrt(before) * betas[t] / b_squared
        x_t_weight = np.sqrt(1 - betas[t]) * (1 - before) / b_squared
        m = x_0_weight * (mean + gain * (m - a * mean)) + x_t_weight * m
        variance = (x_0_weight * gain + x_t_weight) ** 2 * variance + (1 - before) / b_squared * betas[t]
    return m, np.sqrt(variance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guidance_scale", [-1.0, 0.0, 1.0, 2.5])
def test_guided_gaussians_move_their_means(kind: str, guidance_scale: float):
    # Of Gaussians of one variance, p_none^(1 - s) p_class^s is the one with the mean moved likewise, at all t alike.
    betas = np.linspace(2e-3, 0.35, 50)
    scheduler = DDPMCarsScheduler(50, trained_betas=betas.tolist(), prediction_type=kind, clip_sample=False)
    pipe = DDPMCarsPipeline(Gaussians(kind=kind, betas=betas.tolist()), scheduler, NAMES)
    images = pipe(
        128, seeded(), output_type="raw", class_labels=[0, 1] * 64, guidance_scale=guidance_scale
    ).images.double()
    for label, mean in enumerate((-0.3, 0.1)):
        expected = moments_of_samples(betas, -0.1 + guidance_scale * (mean + 0.1), 0.1)
        assert abs(expected[0] - mean) > 0.1 or guidance_scale == 1
        # 12288 values.
        assert images[label::2].mean().item() == pytest.approx(expected[0], abs=5e-3)
        assert images[label::2].std().item() == pytest.approx(expected[1], rel=0.05)


@pytest.mark.parametrize("guidance_scale", [-0.5, 0.0, 1.5, 4.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("channels", "variance_type"), [(3, "fixed_small"), (6, "fixed_large"), (6, "learned_range")])
def test_guidance_is_what_two_forward_passes_give(
    make_unet: Callable[..., UNet2DModel], channels: int, variance_type: str, kind: str, guidance_scale: float
):
    unet = make_unet(num_class_embeds=3, out_channels=channels)
    settings = {"variance_type": variance_type, "prediction_type": kind, "clip_sample": False}
    expected = draw_by_hand(unet, short(DDPMScheduler, **settings), [0, 1, 1], guidance_scale)
    pipe = DDPMCarsPipeline(unet, short(**settings), NAMES)
    got = pipe(3, seeded(), output_type="raw", class_labels=[0, 1, 1], guidance_scale=guidance_scale).images
    # Stock's float32 tables are off by up to 1e-3 of a small beta.
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-3)
    plain = pipe(3, seeded(), output_type="raw", class_labels=[0, 1, 1]).images
    assert (got - plain).abs().max() > 2e-3


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.parametrize("scheduler_class", [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("channels", [3, 6])
def test_other_samplers_are_guided_too(make_unet: Callable[..., UNet2DModel], scheduler_class: type, channels: int):
    unet = make_unet(num_class_embeds=3, out_channels=channels)
    expected = draw_by_hand(unet, scheduler_class(num_train_timesteps=100), [1, 0], 3.0, num_steps=6)
    pipe = DDPMCarsPipeline(unet, scheduler_class(num_train_timesteps=100), NAMES)
    got = pipe(2, seeded(), 6, output_type="raw", class_labels=[1, 0], guidance_scale=3.0).images
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


def test_half_precision_predictions_are_mixed_in_float32(make_unet: Callable[..., UNet2DModel]):
    unet = make_unet(num_class_embeds=3).to(torch.bfloat16)
    x_t, t, labels = torch.randn(2, 3, 8, 8, generator=seeded()), torch.tensor(3), torch.tensor([1, 0])

    def network(x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        return unet(x_t, t, class_labels=labels).sample

    with torch.no_grad():
        got = guided_output(network, unet.dtype, short(), x_t, t, labels, 3.0, NO_CLASS)
        both = torch.cat([labels, torch.tensor([NO_CLASS] * 2)])
        of_class, of_none = unet(torch.cat([x_t] * 2).bfloat16(), t, class_labels=both).sample.double().chunk(2)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), of_none + 3 * (of_class - of_none), rtol=1e-5, atol=1e-5)


def test_guidance_costs_one_pass_of_twice_the_rows(pipe: DDPMCarsPipeline, forward_sizes: list[int]):
    plain = pipe(2, seeded(), class_labels=[0, 1], output_type="pt").images
    assert forward_sizes == [2] * 10
    at_one = pipe(2, seeded(), class_labels=[0, 1], output_type="pt", guidance_scale=1.0).images
    assert forward_sizes == [2] * 20
    assert torch.equal(at_one, plain)
    pipe(2, seeded(), class_labels=[0, 1], guidance_scale=2.0)
    assert forward_sizes == [2] * 20 + [4] * 10


def test_without_a_class_the_last_one_is_drawn(pipe: DDPMCarsPipeline, guided_unet: UNet2DModel):
    assert pipe.null_class == NO_CLASS
    unnamed = DDPMCarsPipeline(guided_unet, short())
    assert unnamed.null_class is None
    expected = unnamed(2, seeded(), output_type="np", class_labels=NO_CLASS).images
    np.testing.assert_array_equal(pipe(2, seeded(), output_type="np").images, expected)
    (image,) = pipe().images
    assert image.size == (8, 8)


def test_each_guided_image_has_its_own_class(pipe: DDPMCarsPipeline):
    arguments = {"output_type": "np", "guidance_scale": 3.0}
    together = pipe(3, [seeded(0) for _ in range(3)], class_labels=[0, 1, 0], **arguments).images
    for i, label in enumerate([0, 1, 0]):
        alone = pipe(1, seeded(0), class_labels=label, **arguments).images
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=0, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_classes_may_be_named(pipe: DDPMCarsPipeline):
    assert pipe.labels == {"red cars": 0, "vans": 1, "buses": 1, "vans, buses": 1}
    assert pipe.get_label_ids(["buses", "red cars", "vans, buses"]) == [1, 0, 1]
    assert pipe.get_label_ids("red cars") == [0]
    expected = pipe(2, seeded(), output_type="np", class_labels=[1, 0]).images
    for labels in (["vans", "red cars"], ("buses", 0), np.array([1, 0])):
        got = pipe(2, seeded(), output_type="np", class_labels=labels).images
        np.testing.assert_array_equal(got, expected)
    one = pipe(2, seeded(), output_type="np", class_labels="buses").images
    np.testing.assert_array_equal(one, pipe(2, seeded(), output_type="np", class_labels=1).images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_labels": 2}, r"\[2\] must be from 0 to 1"),
        ({"class_labels": "bikes"}, r"bikes.*choose from.*buses.*red cars"),
        ({"class_labels": ["red cars", "red"]}, r"\['red'\] is not among"),
        ({"guidance_scale": 2.0}, r"guidance_scale is 2\.0 .* pass class_labels"),
        ({"class_labels": 0, "guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"class_labels": 0, "guidance_scale": float("inf")}, "guidance_scale is inf"),
    ],
)
def test_what_a_guided_model_cannot_draw_is_refused(pipe: DDPMCarsPipeline, arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        pipe(2, **arguments)


@pytest.mark.parametrize("names", [None, NAMES | {2: "trucks"}])
def test_guidance_needs_a_class_for_none(guided_unet: UNet2DModel, names: dict[int, str] | None):
    pipe = DDPMCarsPipeline(guided_unet, short(), names)
    assert pipe.null_class is None
    with pytest.raises(ValueError, match=r"guidance_scale is 2\.0, but .* train with a last class"):
        pipe(class_labels=0, guidance_scale=2.0)
    with pytest.raises(ValueError, match="pass class_labels"):
        pipe()
    pipe(class_labels=2, num_inference_steps=1)


def test_guidance_of_a_network_without_classes_is_refused(unet: UNet2DModel):
    with pytest.raises(ValueError, match=r"guidance_scale is 0\.5"):
        DDPMCarsPipeline(unet, short())(guidance_scale=0.5)


def test_names_for_a_network_with_unnamed_classes_are_refused(guided_unet: UNet2DModel):
    with pytest.raises(ValueError, match="no names: pass integers"):
        DDPMCarsPipeline(guided_unet, short())(class_labels="vans")


@pytest.mark.parametrize("names", [{1: "a", 2: "b"}, {"0": "a", "2": "b"}])
def test_names_leave_out_no_class(guided_unet: UNet2DModel, names: dict):
    with pytest.raises(ValueError, match=r"id2label names the classes \[.*2\]; name those from 0 to 1"):
        DDPMCarsPipeline(guided_unet, short(), names)


@pytest.fixture
def warnings_of_diffusers() -> Iterator[list[str]]:
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("diffusers")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def test_names_survive_saving(pipe: DDPMCarsPipeline, tmp_path: Path, warnings_of_diffusers: list[str]):
    expected = pipe(2, seeded(), output_type="np", class_labels=["vans", "red cars"], guidance_scale=2.0).images
    pipe.save_pretrained(tmp_path / "first")
    index = json.loads((tmp_path / "first" / "model_index.json").read_text())
    assert index["id2label"] == {"0": "red cars", "1": "vans, buses"}
    loaded = DDPMCarsPipeline.from_pretrained(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "second")
    again = DDPMCarsPipeline.from_pretrained(tmp_path / "second")
    assert warnings_of_diffusers == []
    for pipeline in (loaded, again, DDPMCarsPipeline.from_pipe(loaded)):
        assert pipeline.config.id2label == NAMES
        assert pipeline.labels == pipe.labels
        got = pipeline(2, seeded(), output_type="np", class_labels=["vans", "red cars"], guidance_scale=2.0).images
        np.testing.assert_array_equal(got, expected)
    assert set(loaded.components) == {"unet", "scheduler"}


def test_without_names_the_index_is_that_of_the_stock_pipeline(
    unet: UNet2DModel, tmp_path: Path, warnings_of_diffusers: list[str]
):
    DDPMCarsPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "ours")
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "stock")
    ours, stock = (json.loads((tmp_path / name / "model_index.json").read_text()) for name in ("ours", "stock"))
    assert ours == stock
    images = [
        pipeline_class.from_pretrained(tmp_path / name)(generator=seeded(), num_inference_steps=5, output_type="np")
        for pipeline_class, name in ((DDPMPipeline, "ours"), (DDPMCarsPipeline, "stock"))
    ]
    np.testing.assert_allclose(images[0].images, images[1].images, rtol=0, atol=1e-6)
    assert warnings_of_diffusers == []
