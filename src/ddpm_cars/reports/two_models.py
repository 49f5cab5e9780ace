"""Two models side by side, as one HTML page that needs nothing beside it."""

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

from ddpm_cars.metrics.records import BITS_PER_DIMENSION, FRECHET_DISTANCE, METRICS, Quantity
from ddpm_cars.reports.render import render
from ddpm_cars.reports.wording import (
    MINUS,
    Metrics,
    bound_label,
    metric_headings,
    name_of,
    number_text,
    sampler_label,
    value_text,
)
from ddpm_cars.runtime.files import write_text


def write_comparison(
    first: Metrics,
    second: Metrics,
    images: Mapping[str, tuple[Path, Path]],
    path: str | Path,
    bpd_difference: tuple[float, float] | None = None,
) -> Path:
    """Write a report that sets two models side by side, as `write_report` does for one.

    A model is called better where the difference is more than two standard errors.

    Args:
        first: Metrics of one model, which is called A.
        second: Metrics of the other one, B.
        images: PNG files of A and of B, by the names of `write_report`.
        path: Where to write.
        bpd_difference: Mean of B's bits per dimension minus A's over the same images, by the first bound of each,
            and its standard error; None takes the errors of the two for independent.

    Returns:
        `path`.

    Raises:
        OSError: If an image cannot be read or the file cannot be written.
    """
    differences = _differences(first, second)
    comparable, a, b = not differences, first["samples"][0]["metrics"], second["samples"][0]["metrics"]
    rows = [
        [heading, *_compared(metric, a, b, comparable), value_text(metric, first["floor"]["metrics"])]
        for heading, metric in zip(metric_headings(first), METRICS, strict=True)
    ]
    if "likelihood" in first and "likelihood" in second:
        bounds = first["likelihood"][0], second["likelihood"][0]
        rows.append(
            [f"{BITS_PER_DIMENSION.name} ↓", *_compared(BITS_PER_DIMENSION, *bounds, comparable, bpd_difference), ""]
        )
    path = Path(path)
    page = render(
        "comparison.html.jinja",
        title=f"{first['model']['name']} and {second['model']['name']}",
        models=(("A", first), ("B", second)),
        images=images,
        differences=differences,
        headings=["A", "B", f"B {MINUS} A", "Verdict"],
        figure_rows=rows,
        other_tables=_other_tables(first, second, comparable),
    )
    write_text(path, page)
    return path


def _differences(first: Metrics, second: Metrics) -> list[str]:
    """Say what keeps the figures of two models from being compared."""
    kinds = {
        "number of generated images": [metrics["num_images"] for metrics in (first, second)],
        "number of real images": [metrics["data"]["num_reference_images"] for metrics in (first, second)],
        "data": [metrics["data"]["pictures_sha256"] for metrics in (first, second)],
        "held-out images": [metrics["data"].get("held_out_sha256") for metrics in (first, second)],
        "extractor": [metrics["extractor"]["fingerprint"] for metrics in (first, second)],
    }
    return [f"{kind} ({a} and {b})" for kind, (a, b) in kinds.items() if a != b]


def _other_tables(first: Metrics, second: Metrics, comparable: bool) -> list[tuple[str, str, list[list[str]]]]:
    """Return title, first heading and rows of the samplers and bounds, after the first, that both models have."""
    tables = []
    for title, heading, key, label, quantity in (
        ("Quality by number of steps", name_of(FRECHET_DISTANCE, first), "samples", sampler_label, FRECHET_DISTANCE),
        ("Bits per dimension", "Bound", "likelihood", bound_label, BITS_PER_DIMENSION),
    ):
        pairs = itertools.product(first.get(key, ()), second.get(key, ()))
        rows = [
            [label(a), *_compared(quantity, a.get("metrics", a), b.get("metrics", b), comparable)]
            for a, b in itertools.islice(pairs, 1, None)
            if label(a) == label(b)
        ]
        tables.append((title, f"{heading} ↓", rows))
    return tables


def _compared(
    quantity: Quantity,
    a: Metrics,
    b: Metrics,
    comparable: bool,
    difference_and_error: tuple[float, float] | None = None,
) -> list[str]:
    """Return the cells A, B, B - A and verdict; without a paired difference the errors are taken for independent."""
    cells = [value_text(quantity, figures) for figures in (a, b)]
    if not all(cells):
        return [*cells, "", ""]
    value_a, value_b = a[quantity.key], b[quantity.key]
    if difference_and_error is None:
        errors = [figures.get(quantity.error_key, 0) for figures in (a, b)]
        difference_and_error = value_b - value_a, math.hypot(*errors)
    difference, error = difference_and_error
    gain = quantity.sort_key(value_a) - quantity.sort_key(value_a + difference)
    if not comparable or not error:
        verdict = ""
    elif abs(gain) <= 2 * error:
        verdict = "no clear difference"
    else:
        verdict = "B is better" if gain > 0 else "A is better"
    sign = "+" if difference > 0 else ""
    return [*cells, sign + number_text(difference, error), verdict]
