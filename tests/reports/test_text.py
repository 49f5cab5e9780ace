"""The table for the terminal."""

import re
from typing import Any

import pytest

from ddpm_cars.metrics.records import METRICS
from ddpm_cars.reports.text import summary
from tests.support.report_helpers import full_metrics, minimal_metrics


@pytest.fixture
def minimal() -> dict[str, Any]:
    return minimal_metrics()


@pytest.fixture
def metrics() -> dict[str, Any]:
    return full_metrics()


def test_the_summary_has_a_row_a_sampler_and_the_floor_last(metrics: dict[str, Any]):
    metrics["samples"][0]["metrics"]["precision_std_error"] = 0.0123
    lines = summary(metrics).splitlines()
    assert "In the tables, kernel is kernel distance; contr is contrast; spec is spectrum error; " in " ".join(lines)
    starts = [i for i, line in enumerate(lines) if line.startswith("sampler")]
    tables = [lines[start : start + 6] for start in starts]
    assert [[line.split() for line in table] for table in tables] == [
        [
            ["sampler", "steps", "FD", "kernel", "contr", "spec", "images/s"],
            "fixed_small 100 20.1 ± 0.3 0.0123 ± 0.0010 0.930 0.314 12.3".split(),
            "DDIMScheduler 10 41.2 ± 1.9 0.0123 ± 0.0010 1.050 0.314 123".split(),
            "fixed_small 10 99 ± 3 0.0123 ± 0.0010 0.930 0.314 122".split(),
            "DDIMScheduler 50 19.0 ± 0.3 0.0099 ± 0.0010 0.930 0.314 24.6".split(),
            "real images 3.21 ± 0.05 0.0123 ± 0.0010 1.001 0.314".split(),
        ],
        [
            ["sampler", "steps", "prec", "rec", "dens", "cov"],
            "fixed_small 100 0.701 ± 0.012 0.403 0.806 0.608".split(),
            "DDIMScheduler 10 0.810 0.403 0.806 0.608".split(),
            "fixed_small 10 0.701 0.500 0.806 0.608".split(),
            "DDIMScheduler 50 0.701 0.403 0.806 0.608".split(),
            "real images 0.812 0.403 0.806 0.608".split(),
        ],
    ]
    # Columns end at the same place.
    for table, last in zip(tables, (-1, None), strict=True):
        ends = [[match.end() for match in re.finditer(r"\S+( ± \S+)?(?=  |$)", line)] for line in table]
        assert all(row[1:] == ends[0][1:] for row in ends[1:-1])
        assert ends[-1][1:] == ends[0][2:last]


def test_metrics_that_few_images_make_unstable_are_not_shown_of_few(metrics: dict[str, Any]):
    assert "higher is better for prec, rec, dens, cov;" in " ".join(summary(metrics).split())
    metrics["num_images"] = 299
    text = " ".join(summary(metrics).split())
    assert "Precision, recall, density and coverage are not shown, because they say too little of fewer than" in text
    assert text.count("sampler steps") == 1
    assert "prec" not in text


def test_the_summary_tells_bits_and_copies(metrics: dict[str, Any], minimal: dict[str, Any]):
    text = " ".join(summary(metrics).split())
    assert "runs/cars: 2,000 generated images beside 4,633 real ones." in text
    assert "FD is FD-EfficientNet; FD-EfficientNet cannot be compared with published FID, nor with that of" in text
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
@pytest.mark.parametrize("distance", [1.0, 12345.6, 1.23456e13])
def test_the_summary_fits_a_terminal_however_many_columns_there_are(
    metrics: dict[str, Any], label: str, distance: float
):
    metrics["samples"][1]["label"] = label
    # Every metric with an error, and none of them short.
    for metric in METRICS:
        metrics["samples"][1]["metrics"] |= {metric.key: 0.123456, metric.error_key: 0.00012}
    metrics["samples"][1]["metrics"] |= {"frechet_distance": distance, "kernel_distance": -1.234e-5}
    metrics["model"]["name"] = "/".join(["a long folder"] * 12)
    lines = summary(metrics).splitlines()
    assert max(map(len, lines)) <= 100
    starts = [i for i, line in enumerate(lines) if line.startswith("sampler ")]
    rows = [lines[start + 2] for start in starts]
    assert all(row.startswith(label[:10]) for row in rows)
    assert all(("…" in row) == (len(label) > 27) for row in rows)
    # Every column stands in one of the tables, below its name.
    names = [name for start in starts for name in lines[start].split()[2:]]
    assert sorted(names) == sorted([*(metric.short_name for metric in METRICS), "images/s"])
    assert sum(row.count(" ± ") for row in rows) == len(METRICS)
