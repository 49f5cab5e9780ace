"""Which real images a model is measured against."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_cars.config.commands import EvaluateConfig
from ddpm_cars.errors import UserError
from ddpm_cars.evaluation import real_images as references
from ddpm_cars.evaluation.features import load_extractor
from ddpm_cars.evaluation.real_images import compared_pixels, features_path, load_real_images, mirrored
from ddpm_cars.toy_cars.dataset import write_toy_cars


@pytest.fixture(scope="module")
def cars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_cars(tmp_path_factory.mktemp("many") / "cars", 90, 8, 8)


@pytest.fixture
def config(cars: Path, tmp_path: Path) -> EvaluateConfig:
    return EvaluateConfig(
        pretrained_model_name_or_path="model",
        train_data_dir=str(cars),
        validation_split="test",
        num_images=40,
        cache_dir=str(tmp_path),
        resize="squash",
        background="white",
    )


def test_floor_and_reference_are_different_images_and_held_out_ones_are_in_neither(config: EvaluateConfig):
    real = load_real_images(config, 8, 3, ())
    assert len(real.training.images) == 90
    assert len(real.held_out.images) == 8
    assert sorted(real.order.tolist()) == list(range(90))
    assert not set(real.held_out.digests.tolist()) & set(real.training.digests.tolist())
    assert real.labels is None
    other = load_real_images(replace(config, seed=1), 8, 3, ())
    assert other.order.tolist() != real.order.tolist()


def test_without_a_held_out_split_all_images_are_training_images(config: EvaluateConfig):
    real = load_real_images(replace(config, validation_split=None), 8, 1, ())
    assert real.held_out is None
    assert real.training.images.shape == (98, 8, 8, 1)


def test_drawn_images_have_the_classes_of_real_ones(config: EvaluateConfig, tmp_path: Path):
    for name, number in (("red", 60), ("green", 30)):
        write_toy_cars(tmp_path / "classes" / name, number, 0, 8, seed=number)
        for i, path in enumerate(sorted((tmp_path / "classes" / name / "train").iterdir())):
            path.rename(tmp_path / "classes" / name / f"{i}.png")
        (tmp_path / "classes" / name / "train").rmdir()
    folder = replace(config, train_data_dir=str(tmp_path / "classes"), validation_split=None)
    real = load_real_images(folder, 8, 3, ("green", "red"))
    counts = np.bincount(real.labels)
    assert counts.sum() == 40
    assert 18 <= counts[1] <= 35
    np.testing.assert_array_equal(real.labels, real.training.labels[real.order[:40]])
    with pytest.raises(UserError, match=r"has the classes green, red, and the model has blue, red"):
        load_real_images(folder, 8, 3, ("blue", "red"))


def test_too_few_images_are_named_with_the_number_that_would_do(config: EvaluateConfig):
    with pytest.raises(UserError, match=r"num_images is 46, which takes 92 .* has 90: lower num_images to 45"):
        load_real_images(replace(config, num_images=46), 8, 3, ())


@pytest.mark.parametrize(("split", "num_drawn"), [(None, 45), ("train[:81]", 40)])
def test_half_of_the_images_are_drawn_where_no_number_is_given(
    config: EvaluateConfig, split: str | None, num_drawn: int
):
    real = load_real_images(replace(config, split=split, num_images=None), 8, 3, ())
    assert real.num_floor_images == num_drawn


def test_no_more_than_2000_are_drawn_unasked(config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch):
    assert references._MAX_UNASKED_IMAGES == 2000
    monkeypatch.setattr(references, "_MAX_UNASKED_IMAGES", 41)
    assert load_real_images(replace(config, num_images=None), 8, 3, ()).num_floor_images == 41
    assert load_real_images(replace(config, num_images=43), 8, 3, ()).num_floor_images == 43


@pytest.mark.parametrize("num_images", [40, 2000, None])
def test_a_set_that_is_too_small_for_any_number_is_told_what_is_needed(config: EvaluateConfig, num_images: int | None):
    small = replace(config, split="train[:64]", num_images=num_images)
    with pytest.raises(UserError, match=r"has 64 images .*test; an evaluation needs 80 or more") as failed:
        load_real_images(small, 8, 3, ())
    assert "lower" not in str(failed.value)
    assert str(failed.value).endswith("or look at what ddpm-cars sample draws")


def test_too_few_images_are_told_before_any_is_decoded(tmp_path: Path, config: EvaluateConfig):
    for i in range(60):
        (tmp_path / "cars" / f"{i}.png").parent.mkdir(exist_ok=True)
        (tmp_path / "cars" / f"{i}.png").write_bytes(b"no image")
    few = replace(config, train_data_dir=str(tmp_path / "cars"), validation_split=None, cache_dir=str(tmp_path / "c"))
    with pytest.raises(UserError, match=r"has 60 images; an evaluation needs 80 or more"):
        load_real_images(few, 8, 3, ())
    assert not (tmp_path / "c").exists()


def test_one_held_out_image_is_too_few_for_an_error(config: EvaluateConfig, tmp_path: Path):
    write_toy_cars(tmp_path / "lone", 90, 1, 8)
    with pytest.raises(UserError, match=r"validation_split test of .*lone has 1 image; it takes 2 or more"):
        load_real_images(replace(config, train_data_dir=str(tmp_path / "lone")), 8, 3, ())


def test_features_are_kept_under_the_contents_of_images_and_extractor():
    flat, identity = load_extractor("torch.nn:Flatten"), load_extractor("efficientnet-lite0")
    paths = {features_path(e, sha256, "cache") for e in (flat, identity) for sha256 in ("a", "b")}
    assert len(paths) == 4
    assert features_path(flat, "a", "cache") in paths
    assert all(path.parent == Path("cache/ddpm_cars") for path in paths)


@pytest.mark.parametrize(("size", "num_values"), [(8, 8 * 8 * 3), (32, 32 * 32 * 3), (64, 32 * 32 * 3)])
def test_distances_between_pixels_are_root_mean_squares_of_at_most_32_pixels(size: int, num_values: int):
    images = np.zeros((2, size, size, 3), np.uint8)
    images[1] = 10
    vectors = compared_pixels(images)
    assert vectors.shape == (2, num_values)
    assert float(torch.dist(*vectors)) == pytest.approx(10, rel=1e-5)


def test_kept_images_can_be_compared_however_many_there_are():
    images = np.random.default_rng(0).integers(0, 256, (2500, 8, 8, 3), np.uint8)
    images.setflags(write=False)
    expected = images.transpose(0, 3, 1, 2).reshape(len(images), -1) / 192**0.5
    np.testing.assert_allclose(compared_pixels(images).numpy(), expected, rtol=1e-6)


def test_mirrored_images_have_left_on_the_right():
    images = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    assert mirrored(images)[0, 1, 0].tolist() == images[0, 1, 1].tolist()
    np.testing.assert_array_equal(mirrored(mirrored(images)), images)
