"""The table for the terminal."""

import re
from typing import Any

import pytest

from ddpm_cars.reports.text import summary
from tests.support.report_helpers import full_metrics, minimal_metrics


@pytest.fixture
def minimal() -> dict[str, Any]:
    return minimal_metrics()


@pytest.fixture
def metrics() -> dict[str, Any]:
    return full_metrics()


def test_the_summary_has_a_row_a_sampler_and_the_floor_last(metrics: dict[str, Any]):
    lines = summary(metrics).splitlines()
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("sampler")) :][:6]
    assert [line.split() for line in table] == [
        ["sampler", "steps", "FD", "kernel", "prec", "rec", "dens", "cov", "contr", "spec", "images/s"],
        "fixed_small 100 20.1 ± 0.3 0.0123 0.70 0.40 0.81 0.61 0.93 0.31 12.3".split(),
        "DDIMScheduler 10 41.2 ± 1.9 0.0123 0.81 0.40 0.81 0.61 1.05 0.31 123".split(),
        "fixed_small 10 99 ± 3 0.0123 0.70 0.50 0.81 0.61 0.93 0.31 122".split(),
        "DDIMScheduler 50 19.0 ± 0.3 0.00990 0.70 0.40 0.81 0.61 0.93 0.31 24.6".split(),
        "real images 3.21 ± 0.05 0.0123 0.81 0.40 0.81 0.61 1.00 0.31".split(),
    ]
    # Columns end at the same place.
    ends = [[match.end() for match in re.finditer(r"\S+( ± \S+)?(?=  |$)", line)] for line in table]
    assert all(row[1:] == ends[0][1:] for row in ends[1:-1])
    assert ends[-1][1:] == ends[0][2:-1]


def test_the_summary_tells_bits_and_copies(metrics: dict[str, Any], minimal: dict[str, Any]):
    text = " ".join(summary(metrics).split())
    assert "runs/cars: 2,000 generated images beside 4,633 real ones." in text
    assert "FD is FD-EfficientNet; FD-EfficientNet cannot be compared with published FID." in text
    metrics["extractor"]["distance_name"] = "FID"
    assert "FD is FID; FID of another number of images cannot be compared with it" in " ".join(
        summary(metrics).split()
    )
    assert "of 512 images" in text
    assert "fixed_small, all 1000 steps 4.10 ± 0.02 0.0001 3.9012 0.2023" in text
    assert "analytic, 50 least cost 4.07 ± 0.02" in text
    assert "by features: 1.2 % of generated images, 1.0 % of unseen ones." in text
    assert "by pixels: 0.9 % of generated images, 1.1 % of unseen ones." in text
    assert not re.search("Bits|copies|None", summary(minimal))


def test_however_large_the_figures_are_the_samplers_can_be_told_apart(metrics: dict[str, Any]):
    for entry, label in zip(metrics["samples"], ("fixed_small", "fixed_large"), strict=False):
        entry["label"] = label
        entry["metrics"] |= {"frechet_distance": 2476710.0, "frechet_distance_std_error": 2e4}
    assert {"fixed_small", "fixed_large"} < set(summary(metrics).split())


@pytest.mark.parametrize("label", ["x", "DPMSolverMultistepScheduler", "a" * 90])
@pytest.mark.parametrize("distance", [1.0, 12345.6])
def test_the_summary_fits_a_terminal(metrics: dict[str, Any], label: str, distance: float):
    metrics["samples"][1]["label"] = label
    metrics["samples"][1]["metrics"] |= {"frechet_distance": distance, "kernel_distance": -1.234e-5}
    metrics["model"]["name"] = "/".join(["a long folder"] * 12)
    lines = summary(metrics).splitlines()
    assert max(map(len, lines)) <= 100
    (row,) = (line for line in lines if "1.23e" in line)
    assert row.startswith(label[:10])
    assert ("…" in row) == (len(label) > 25)
