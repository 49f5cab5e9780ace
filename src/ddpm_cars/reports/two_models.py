"""Two models side by side, as one HTML page that needs nothing beside it."""

import itertools
import math
from collections.abc import Mapping
from html import escape
from pathlib import Path

from ddpm_cars.reports.html import NEIGHBOURS, html_pictures, html_table, paragraph, section, write_page
from ddpm_cars.reports.page import description, facts
from ddpm_cars.reports.quantities import (
    ARROWS,
    BPD,
    MINUS,
    QUANTITIES,
    Metrics,
    Quantity,
    bound_label,
    comparability,
    error_of,
    name_of,
    number_text,
    sampler_label,
    sort_key,
    value_text,
)


def write_comparison(
    first: Metrics,
    second: Metrics,
    pictures: Mapping[str, tuple[Path, Path]],
    path: str | Path,
    bpd_difference: tuple[float, float] | None = None,
) -> Path:
    """Write a report that sets two models side by side, as `write_report` does for one.

    A model is called better where the difference is more than two standard errors.

    Args:
        first: Metrics of one model, which is called A.
        second: Those of the other, B.
        pictures: PNG files of A and of B, by the names of `write_report`.
        path: Where to write.
        bpd_difference: Mean of B's bits per dimension minus A's over the same images, by the first bound of each,
            and its standard error; None takes the errors of the two for independent.

    Returns:
        `path`.

    Raises:
        OSError: If an image cannot be read or the file cannot be written.
    """
    title = f"{first['model']['name']} and {second['model']['name']}"
    models = (("A", first), ("B", second))
    lines = [paragraph(f"{letter}: {metrics['model']['name']}, {description(metrics)}") for letter, metrics in models]
    parts = [
        f"<header><h1>{escape(title)}</h1>{''.join(lines)}</header>",
        _figures_compared(first, second, bpd_difference),
        section("Pictures", html_pictures(pictures, "samples", "denoising")),
        _others_compared(first, second),
        section("Curves", html_pictures(pictures, "quality", "bits_by_timestep", "loss", "eps_mse", "spectrum")),
        section("Nearest training images", html_pictures(pictures, *NEIGHBOURS)),
        *(section(f"How {letter} was measured", facts(metrics)) for letter, metrics in models),
    ]
    return write_page(path, title, parts)


def _unlike(first: Metrics, second: Metrics) -> list[str]:
    """Say what keeps the figures of two models from being compared."""
    kinds = {
        "number of drawn images": [metrics["num_images"] for metrics in (first, second)],
        "number of real images": [metrics["data"]["num_reference_images"] for metrics in (first, second)],
        "data": [metrics["data"]["pictures_sha256"] for metrics in (first, second)],
        "held-out images": [metrics["data"].get("held_out_sha256") for metrics in (first, second)],
        "extractor": [metrics["extractor"]["fingerprint"] for metrics in (first, second)],
    }
    return [f"{kind} ({a} and {b})" for kind, (a, b) in kinds.items() if a != b]


def _figures_compared(first: Metrics, second: Metrics, bpd_difference: tuple[float, float] | None) -> str:
    unlike = _unlike(first, second)
    a, b = (metrics["samples"][0] for metrics in (first, second))
    rows = [
        [
            f"{name_of(q, first)} {ARROWS[q.best]}",
            *_compared(q, a["metrics"], b["metrics"], not unlike),
            value_text(q, first["floor"]["metrics"]),
        ]
        for q in QUANTITIES
    ]
    if "likelihood" in first and "likelihood" in second:
        bound_a, bound_b = first["likelihood"][0], second["likelihood"][0]
        rows.append([f"{BPD.name} ↓", *_compared(BPD, bound_a, bound_b, not unlike, bpd_difference), ""])
    text = (
        f"{a['num_images']:,} images of each, A drawn with {sampler_label(a)}, and B with {sampler_label(b)}. The "
        "last column is the floor, what real images get in their place. ± is one standard error, and for the kernel "
        "distance the standard deviation over subsets. A model is called better where the difference is more than two "
        f"of them, and nothing is said without. {comparability(first)}."
    )
    warning = f"Measured differently, so nothing here says which is better: {'; '.join(unlike)}." if unlike else ""
    table = html_table(["Figure", "A", "B", f"B {MINUS} A", "Verdict", "Real images"], rows)
    return section("Figures", paragraph(warning, "warning"), paragraph(text), table)


def _others_compared(first: Metrics, second: Metrics) -> str:
    """Set samplers and bounds beside each other that were measured of both models, besides the first of each."""
    distance, comparable = QUANTITIES[0], not _unlike(first, second)
    sections = ""
    for title, heading, key, label, quantity in (
        ("Quality by number of steps", f"{name_of(distance, first)} ↓", "samples", sampler_label, distance),
        ("Bits per dimension", "Bound ↓", "likelihood", bound_label, BPD),
    ):
        pairs = itertools.product(first.get(key, ()), second.get(key, ()))
        rows = [
            [label(a), *_compared(quantity, a.get("metrics", a), b.get("metrics", b), comparable)]
            for a, b in itertools.islice(pairs, 1, None)
            if label(a) == label(b)
        ]
        if rows:
            sections += section(title, html_table([heading, "A", "B", f"B {MINUS} A", "Verdict"], rows))
    return sections


def _compared(
    quantity: Quantity,
    a: Metrics,
    b: Metrics,
    comparable: bool,
    difference_and_error: tuple[float, float] | None = None,
) -> list[str]:
    """Return the cells A, B, B - A and verdict; without a paired difference the errors are taken for independent."""
    value_a, value_b = a[quantity.key], b[quantity.key]
    errors = [error_of(quantity, figures) for figures in (a, b)]
    if difference_and_error is None:
        difference_and_error = value_b - value_a, math.hypot(*errors)
    difference, error = difference_and_error
    gain = sort_key(quantity, value_a) - sort_key(quantity, value_a + difference)
    if not comparable or not error:
        verdict = ""
    elif abs(gain) <= 2 * error:
        verdict = "no clear difference"
    else:
        verdict = "B is better" if gain > 0 else "A is better"
    sign = "+" if difference > 0 else ""
    return [value_text(quantity, a), value_text(quantity, b), sign + number_text(difference, error), verdict]
