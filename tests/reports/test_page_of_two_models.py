"""The page that sets two models side by side."""

from pathlib import Path
from typing import Any

import pytest

from ddpm_cars.reports.page import write_comparison
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


@pytest.fixture
def other() -> dict[str, Any]:
    second = full_metrics()
    second["model"]["name"] = "runs/longer"
    return second


def compare(first: dict[str, Any], second: dict[str, Any], tmp_path: Path, **options: Any) -> Page:
    path = tmp_path / "comparison.html"
    write_comparison(first, second, options.pop("images", {}), path, **options)
    return Page(path)


def verdict_on(page: Page, heading: str, name: str) -> list[str]:
    (row,) = (row for row in page.rows(heading) if row[0].startswith(name))
    return row[1:5]


@pytest.mark.parametrize(
    ("key", "name", "values", "errors", "expected"),
    [
        ("frechet_distance", "FD-", (20, 18), (0.3, 0.4), "20.0 ± 0.3|18.0 ± 0.4|-2.0 ± 0.5|B is better"),
        ("frechet_distance", "FD-", (20, 21.01), (0.3, 0.4), "20.0 ± 0.3|21.0 ± 0.4|+1.0 ± 0.5|A is better"),
        ("frechet_distance", "FD-", (20, 20.99), (0.3, 0.4), "20.0 ± 0.3|21.0 ± 0.4|+1.0 ± 0.5|no clear difference"),
        (
            "kernel_distance",
            "Kernel",
            (0.5, 0.4),
            (0.03, 0.041),
            "0.50 ± 0.03|0.40 ± 0.04|-0.10 ± 0.05|no clear difference",
        ),
        ("precision", "Precision", (0.7, 0.6), (0.03, 0.03), "0.70 ± 0.03|0.60 ± 0.03|-0.10 ± 0.04|A is better"),
        ("contrast", "Contrast", (1.4, 0.9), (0.02, 0.02), "1.40 ± 0.02|0.90 ± 0.02|-0.50 ± 0.03|B is better"),
        ("contrast", "Contrast", (1.1, 0.9), (0.02, 0.02), "1.10 ± 0.02|0.90 ± 0.02|-0.20 ± 0.03|no clear difference"),
        ("recall", "Recall", (0.7, 0.6), None, "0.700|0.600|-0.100|"),
    ],
)
def test_a_model_is_better_beyond_two_standard_errors(
    metrics: dict[str, Any],
    other: dict[str, Any],
    tmp_path: Path,
    key: str,
    name: str,
    values: tuple[float, float],
    errors: tuple[float, float] | None,
    expected: str,
):
    suffix = "std" if key == "kernel_distance" else "std_error"
    for i, each in enumerate((metrics, other)):
        each["samples"][0]["metrics"][key] = values[i]
        if errors is not None:
            each["samples"][0]["metrics"][f"{key}_{suffix}"] = errors[i]
    page = compare(metrics, other, tmp_path)
    assert verdict_on(page, "Figures", name) == expected.split("|")
    assert page.rows("Figures")[1][-1] == "3.21 ± 0.05"


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        (None, ["-0.01 ± 0.03", "no clear difference"]),
        ((-0.0112, 0.004), ["-0.011 ± 0.004", "B is better"]),
        ((0.0112, 0.002), ["+0.011 ± 0.002", "A is better"]),
        ((-0.0075, 0.004), ["-0.007 ± 0.004", "no clear difference"]),
    ],
)
def test_bits_are_compared_image_by_image(
    metrics: dict[str, Any],
    other: dict[str, Any],
    tmp_path: Path,
    difference: tuple[float, float] | None,
    expected: list[str],
):
    other["likelihood"][0]["bpd"] -= 0.0112
    page = compare(metrics, other, tmp_path, bpd_difference=difference)
    assert verdict_on(page, "Figures", "Bits") == ["4.10 ± 0.02", "4.09 ± 0.02", *expected]


def test_samplers_and_bounds_of_both_are_compared(metrics: dict[str, Any], other: dict[str, Any], tmp_path: Path):
    other["samples"][1]["metrics"]["frechet_distance"] = 30.0
    other["samples"][2]["label"] = "spectral"
    other["samples"][3], other["samples"][0] = other["samples"][0], other["samples"][3]
    other["likelihood"][1]["bpd"] = 4.4
    page = compare(metrics, other, tmp_path)
    assert page.rows("Quality by number of steps")[1:] == [
        ["fixed_small, 100 steps", "20.1 ± 0.3", "20.1 ± 0.3", "0.0 ± 0.4", "no clear difference"],
        ["DDIMScheduler, 10 steps", "41.2 ± 1.9", "30.0 ± 1.9", "-11 ± 3", "B is better"],
        ["DDIMScheduler, 50 steps", "19.0 ± 0.3", "19.0 ± 0.3", "0.0 ± 0.4", "no clear difference"],
    ]
    assert page.rows("Bits per dimension")[1:] == [
        ["analytic, 50 least cost", "4.07 ± 0.02", "4.40 ± 0.02", "+0.33 ± 0.03", "A is better"]
    ]


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (("num_images",), 1000, "number of generated images (2000 and 1000)"),
        (("data", "num_reference_images"), 99, "number of real images (4633 and 99)"),
        (("data", "pictures_sha256"), "00", "data (89ab12cd34ef5678 and 00)"),
        (("data", "held_out_sha256"), "22", "held-out images (None and 22)"),
        (("extractor", "fingerprint"), "11", "extractor (fedcba9876543210 and 11)"),
    ],
)
def test_models_that_were_measured_differently_get_a_warning_and_no_verdict(
    metrics: dict[str, Any], other: dict[str, Any], tmp_path: Path, keys: tuple[str, ...], value: Any, words: str
):
    other["samples"][0]["metrics"]["frechet_distance"] = 1.0
    assert "B is better" in compare(metrics, other, tmp_path).text
    assert "Measured differently" not in compare(metrics, other, tmp_path).text
    put(other, keys, value)
    page = compare(metrics, other, tmp_path, bpd_difference=(-1.0, 0.01))
    assert words in page.text
    assert "no verdict is given:" in page.text
    assert not {"A is better", "B is better", "no clear difference"} & set(page.all("td"))


def test_images_of_both_stand_side_by_side(
    metrics: dict[str, Any], other: dict[str, Any], images: dict[str, Path], tmp_path: Path
):
    pairs = {name: (images[name], images["samples"]) for name in IMAGES}
    page = compare(metrics, other, tmp_path, images=pairs)
    first = images["samples"].read_bytes()
    assert sorted(page.images[::2]) == sorted(path.read_bytes() for path in images.values())
    assert set(page.images[1::2]) == {first}
    assert page.all("b") == ["A", "B"] * len(IMAGES)
    assert "side" in page.classes
    assert "runs/cars and runs/longer" in page.text


def test_a_comparison_of_the_least_has_few_headings(minimal: dict[str, Any], tmp_path: Path):
    page = compare(minimal, minimal_metrics(), tmp_path)
    assert page.all("h2") == ["Figures", "How A was measured", "How B was measured"]


@pytest.mark.parametrize("keys", TEXTS)
def test_names_are_text_and_never_markup(metrics: dict[str, Any], tmp_path: Path, keys: tuple[Any, ...]):
    clean = compare(metrics, metrics, tmp_path)
    put(metrics, keys, HOSTILE)
    hostile = compare(metrics, metrics, tmp_path)
    # The bounds that come first are compared without their names.
    assert (HOSTILE in hostile.text) == (keys[:2] != ("likelihood", 0))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in clean.tags]
