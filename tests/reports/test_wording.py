"""Numbers and names in words."""

import pytest

from ddpm_cars.metrics.records import METRICS
from ddpm_cars.reports.wording import bound_label, duration_text, number_text, value_text
from tests.support.report_helpers import MINUS, bound


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (bound("fixed_small", "all", 1000, 4.1), "fixed_small, all 1000 steps"),
        (bound("analytic", "least cost", 4, 4.1), "analytic, 4 least cost"),
    ],
)
def test_a_bound_is_named_by_variance_and_chain(record: dict, expected: str):
    assert bound_label(record) == expected


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (20.13, 0.31, "20.1 ± 0.3"),
        (20.13, 0.11, "20.13 ± 0.11"),
        (20.13, 3.1, "20 ± 3"),
        (1234.5, 56, "1,234 ± 56"),
        (0.0123, 0.00104, "0.0123 ± 0.0010"),
        (-0.5, 0.02, "-0.50 ± 0.02"),
        (5.0, 0.1, "5.00 ± 0.10"),
        (5.0, 0.2, "5.0 ± 0.2"),
        (0.7, 0, "0.700"),
        (8.1, 0, "8.10"),
        (123.0, 0, "123"),
        (999.7, 0, "1,000"),
        (12345.6, 0, "12,346"),
        (-0.00001234, 0, "-1.23e-05"),
    ],
)
def test_numbers_have_the_digits_that_their_error_leaves(value: float, error: float, expected: str):
    assert number_text(value, error) == expected.replace("-", MINUS)


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({}, ""),
        ({"kernel_distance": 0.01234}, "0.012"),
        ({"kernel_distance": -0.0001234, "kernel_distance_std": 0.0}, "-0.000123"),
        ({"kernel_distance": 5.01554e12, "kernel_distance_std": 0.0}, "5,015,540,000,000"),
        ({"kernel_distance": 0.01234, "kernel_distance_std": 0.001}, "0.0123 ± 0.0010"),
    ],
)
def test_a_figure_has_its_error_if_there_is_one(figures: dict[str, float], expected: str):
    assert value_text(METRICS[1], figures) == expected.replace("-", MINUS)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 0 s"), (512.3, "8 min 32 s"), (3599.6, "1 h 0 min")],
)
def test_durations_are_in_words(seconds: float, expected: str):
    assert duration_text(seconds) == expected
