"""The report on a model."""

from pathlib import Path
from typing import Any

import pytest

from ddpm_cars.reports.page import write_report
from tests.support.report_helpers import (
    HOSTILE,
    IMAGES,
    TEXTS,
    Page,
    full_metrics,
    make_images,
    minimal_metrics,
    put,
)


@pytest.fixture
def minimal() -> dict[str, Any]:
    return minimal_metrics()


@pytest.fixture
def metrics() -> dict[str, Any]:
    return full_metrics()


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    return make_images(tmp_path)


def report(metrics: dict[str, Any], images: dict[str, Path], tmp_path: Path) -> Page:
    path = tmp_path / "new folder" / "report.html"
    assert write_report(metrics, images, path) == path
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return Page(path)


def test_the_report_is_one_file_that_asks_for_nothing(
    metrics: dict[str, Any], images: dict[str, Path], tmp_path: Path
):
    page = report(metrics, images, tmp_path)
    source = page.path.read_text(encoding="utf-8")
    assert "://" not in source
    assert "url(" not in source
    assert "@import" not in source
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object"})
    assert not any("href" in attributes or "srcset" in attributes for _, attributes in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")
    assert ("meta", {"charset": "utf-8"}) in page.tags
    assert any(attributes.get("name") == "viewport" for tag, attributes in page.tags if tag == "meta")


def test_the_images_are_in_the_report(metrics: dict[str, Any], images: dict[str, Path], tmp_path: Path):
    assert report(metrics, images, tmp_path).images == [images[name].read_bytes() for name in IMAGES]


@pytest.mark.parametrize(
    "expected",
    [
        "runs/cars",
        "1,743,363 parameters, 32 x 32 pixels, 3 channels, DDPMCarsScheduler (fixed_small), 1000 timesteps",
        "2,000 images were generated with fixed_small, 100 steps and are compared with 4,633 real ones",
        "what 1,999 other real images reach",
        "FD-EfficientNet ↓ 20.1 ± 0.3 real images: 3.21 ± 0.05",
        "Kernel distance ↓ 0.0123 ± 0.0010 real images: 0.0123 ± 0.0010",
        "Bits per dimension ↓ 4.10 ± 0.02 fixed_small, all 1000 steps",
        "Precision ↑ 0.701 real images: 0.812",
        "Recall ↑ 0.403 real images: 0.403",
        "Density ↑ 0.806",
        "Coverage ↑ 0.608",
        "Contrast → 1 0.930 real images: 1.001",
        "Spectrum error ↓ 0.314",
        "cannot be compared with published FID",
        "of 512 images takes at most",
        "the split test, which training has not seen",
        "over 512 images: 0.910 ± 0.012 at t = 0 and 0.00123 ± 0.00004 at t = 999",
        "closer to one of 6,632 training images",
        "features 8.12 1.2 % 1.0 %",
        "pixels 23.4 0.9 % 1.1 %",
        "Seed 17",
        "weights 0123456789abcdef",
        "photographs, train: 6,633 images, 89ab12cd34ef5678",
        "Held out test: 501 images",
        "squash",
        "efficientnet-lite0, 1,280 features, fedcba9876543210",
        "bicubic to 224",
        "ddpm-cars 0.1.0, torch 2.13.0",
        "likelihood 8 min 32 s, samples 2 h 3 min, distances 1.2 s",
        "1,234 MiB",
    ],
)
def test_what_was_measured_is_told(metrics: dict[str, Any], images: dict[str, Path], tmp_path: Path, expected: str):
    assert expected in report(metrics, images, tmp_path).text


def test_samplers_are_grouped_with_the_floor_below(metrics: dict[str, Any], tmp_path: Path):
    _, *rows = report(metrics, {}, tmp_path).rows("Quality by number of steps")
    assert [row[:3] for row in rows] == [
        ["fixed_small", "10", "99 ± 3"],
        ["fixed_small, as saved", "100", "20.1 ± 0.3"],
        ["DDIMScheduler", "10", "41.2 ± 1.9"],
        ["DDIMScheduler", "50", "19.0 ± 0.3"],
        ["Real images", "", "3.21 ± 0.05"],
    ]
    assert [row[-1] for row in rows] == ["122", "12.3", "123", "24.6", ""]


def test_the_best_of_a_column_stands_out_and_it_is_never_the_floor(metrics: dict[str, Any], tmp_path: Path):
    page = report(metrics, {}, tmp_path)
    best = [text for (_, text), kind in zip(page.found, page.classes, strict=True) if kind == "best"]
    distance, kernel, precision, recall, contrast, bits = (
        "19.0 ± 0.3",
        "0.0099 ± 0.0010",
        "0.810",
        "0.500",
        "1.050",
        "4.07",
    )
    # Contrast is best at 1; what all samplers share stands out everywhere.
    ties = ["0.806", "0.608", "0.314"]
    assert sorted(best) == sorted([distance, kernel, precision, recall, contrast, f"{bits} ± 0.02", *4 * ties])


def test_a_sampler_alone_is_not_the_best(minimal: dict[str, Any], tmp_path: Path):
    page = report(minimal, {}, tmp_path)
    assert "best" not in page.classes
    assert "Every sampler" not in page.text


def test_bounds_are_a_table(metrics: dict[str, Any], tmp_path: Path):
    assert report(metrics, {}, tmp_path).rows("Bits per dimension")[1:] == [
        ["fixed_small", "all", "1000", "4.10 ± 0.02", "0.0001", "3.9012", "0.2023"],
        ["analytic", "least cost", "50", "4.07 ± 0.02", "0.0001", "3.9012", "0.2023"],
    ]


def test_how_it_was_measured_goes_from_the_model_to_the_cost(metrics: dict[str, Any], tmp_path: Path):
    metrics["mixed_precision"] = "bf16"
    page = report(metrics, {}, tmp_path)
    assert page.all("dt") == [
        "Model",
        "Scheduler",
        "Seed",
        "Images",
        "Data",
        "Held out",
        "Made square by",
        "Extractor",
        "Resize of the extractor",
        "Versions",
        "Mixed precision",
        "Time",
        "Peak memory",
    ]
    assert page.all("dd")[10] == "bf16"


def test_what_was_not_measured_is_not_spoken_of(minimal: dict[str, Any], tmp_path: Path):
    page = report(minimal, {}, tmp_path)
    assert page.all("h2") == ["Figures", "Quality by number of steps", "How it was measured"]
    assert not page.images
    for word in ("Bits", "Held out", "Peak memory", "Time", "training images", "None", "nan", "figcaption"):
        assert word not in page.text


@pytest.mark.parametrize(
    ("parts", "names", "heading"),
    [
        (["likelihood"], ["bits_by_timestep"], "Bits per dimension"),
        (["eps_mse"], ["eps_mse", "loss"], "Loss"),
        (["spectrum"], ["spectrum"], "Spectrum"),
        (["memorisation"], ["neighbours_features", "neighbours_pixels"], "Memorisation"),
        ([], ["samples", "denoising"], "Images"),
    ],
)
def test_an_absent_part_leaves_no_heading(
    metrics: dict[str, Any],
    images: dict[str, Path],
    tmp_path: Path,
    parts: list[str],
    names: list[str],
    heading: str,
):
    everything = report(metrics, images, tmp_path).all("h2")
    less = {key: value for key, value in metrics.items() if key not in parts}
    fewer = {name: path for name, path in images.items() if name not in names}
    page = report(less, fewer, tmp_path)
    assert page.all("h2") == [title for title in everything if title != heading]
    assert len(page.images) == len(fewer)


def test_copies_without_unseen_images_are_shown_only(metrics: dict[str, Any], images: dict[str, Path], tmp_path: Path):
    metrics["memorisation"] = {"num_training_images": 6632}
    page = report(metrics, images, tmp_path)
    assert "Memorisation" in page.all("h2")
    assert "Unseen images" not in page.text
    assert images["neighbours_pixels"].read_bytes() in page.images


@pytest.mark.parametrize("keys", TEXTS)
def test_names_are_text_and_never_markup(metrics: dict[str, Any], tmp_path: Path, keys: tuple[Any, ...]):
    clean = report(metrics, {}, tmp_path)
    put(metrics, keys, HOSTILE)
    hostile = report(metrics, {}, tmp_path)
    assert HOSTILE in hostile.text
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in clean.tags]
