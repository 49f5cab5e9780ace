"""The model that comes with the package."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import ddpm_cars
from ddpm_cars import DDPMCarsPipeline
from ddpm_cars.diffusion.seeds import seeded_generators
from ddpm_cars.runs.saved_pipeline import open_model_folder, weights_sha256
from ddpm_cars.sampling.samplers import sampler_from_config
from ddpm_cars.toy_cars.painting import draw_car


@pytest.fixture(scope="module")
def pipe() -> DDPMCarsPipeline:
    return DDPMCarsPipeline.from_pretrained(ddpm_cars.pretrained())


def draw(pipe: DDPMCarsPipeline, num_inference_steps: int = 20) -> np.ndarray:
    return pipe(4, seeded_generators(0, 0, 4), num_inference_steps, output_type="np", return_dict=False)[0]


def test_it_is_small_and_holds_no_pickle():
    files = [path for path in ddpm_cars.pretrained().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12 * 2**20
    assert {path.suffix for path in files} <= {".json", ".yaml", ".md", ".png", ".safetensors"}


def test_its_pictures_have_the_colours_of_the_drawn_cars(pipe: DDPMCarsPipeline):
    size = pipe.unet.config.sample_size
    assert pipe.unet.dtype == torch.float32
    drawn = np.stack([np.asarray(draw_car(seed, size)) for seed in range(200)]) / 255
    images = draw(pipe)
    assert images.shape == (4, size, size, 3)
    # Noise, grey and black are all far outside.
    assert abs(images.mean() - drawn.mean()) < 0.15
    assert 0.5 < images.std(axis=(1, 2)).mean() / drawn.std(axis=(1, 2)).mean() < 1.5
    # Neighbouring pixels are alike, and images are not.
    assert np.abs(np.diff(images, axis=1)).mean() < 2 * np.abs(np.diff(drawn, axis=1)).mean()
    assert np.abs(images[0] - images[1]).mean() > 0.05


@pytest.mark.parametrize("name", ["analytic", "spectral"])
def test_it_has_the_measured_variances(pipe: DDPMCarsPipeline, name: str):
    measured = DDPMCarsPipeline(pipe.unet, sampler_from_config(name, pipe.scheduler.config))
    assert not np.array_equal(draw(measured, 10), draw(pipe, 10))


def test_card_and_figures_are_of_these_weights(pipe: DDPMCarsPipeline):
    folder = open_model_folder(ddpm_cars.pretrained())
    metrics = json.loads((folder.files.path / "metrics.json").read_text())
    assert metrics["model"]["weights_sha256"] == weights_sha256(pipe.unet)[:16]
    card = (folder.files.path / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "drawn by this project" in card
    assert "free to use" in card
    number = f"{sum(p.numel() for p in pipe.unet.parameters()):,}"
    assert number in card
    assert re.search(r"FD-EfficientNet", card)


def test_it_was_trained_by_the_recipe_beside_it():
    settings = yaml.safe_load((ddpm_cars.pretrained() / "config.yaml").read_text())
    recipe = yaml.safe_load(
        (Path(__file__).parents[1] / "src" / "ddpm_cars" / "recipes" / "pretrained.yaml").read_text()
    )
    changed = {name for name, value in recipe.items() if settings.get(name, value) != value}
    # The same run on two processes: half of the images of a step for each.
    assert changed <= {"train_batch_size"}
    facts = json.loads((ddpm_cars.pretrained() / "training.json").read_text())
    assert facts["steps"] == recipe["max_train_steps"]
    assert facts["global_batch_size"] == recipe["train_batch_size"]
