"""TODO src/ddpm_cars/reports/text.py."""

import textwrap
from collections.abc import Sequence

from ddpm_cars.reports.page import _bpd_parts, _copies
from ddpm_cars.reports.quantities import (
    BPD,
    QUANTITIES,
    Metrics,
    bound_label,
    comparability,
    number_text,
    percent_text,
    value_text,
)

_WIDTH = 100

_LEAST_WIDTH = 16


def summary(metrics: Metrics) -> str:
    """Return the figures as plain text for a terminal, in lines of at most 100 characters.

    Args:
        metrics: What metrics.json holds.
    """
    distance_name, num_real = metrics["extractor"]["distance_name"], metrics["data"]["num_reference_images"]
    intro = (
        f"{metrics['model']['name']}: {metrics['num_images']:,} drawn images against {num_real:,} real ones. FD is "
        f"{distance_name}; {comparability(metrics)}. Low is good for FD, kernel and spec, and for contr 1. The last "
        "row is real images in place of drawn ones."
    )
    headings = ["sampler", "steps", *(q.short_name for q in QUANTITIES), "images/s"]
    rows = [
        [s["label"], str(s["num_inference_steps"]), *_short_values(s["metrics"]), number_text(s["images_per_second"])]
        for s in metrics["samples"]
    ]
    floor = ["real images", "", *_short_values(metrics["floor"]["metrics"]), ""]
    parts = [textwrap.fill(intro, _WIDTH), _text_table([headings, *rows, floor])]
    if bounds := metrics.get("likelihood"):
        lines = [[bound_label(bound), value_text(BPD, bound), *_bpd_parts(bound)] for bound in bounds]
        parts.append(f"Bits per dimension at most, of {bounds[0]['num_images']:,} images; lower is better.")
        parts.append(_text_table([["variance and timesteps", "bits", "prior", "denoising", "decoder"], *lines]))
    copies = [
        f"Near copies of training images by {space}: {percent_text(found['share'])}, of unseen images "
        f"{percent_text(found['expected'])}."
        for space, found in _copies(metrics).items()
    ]
    return "\n\n".join([*parts, *(["\n".join(copies)] if copies else [])])


def _short_values(figures: Metrics) -> list[str]:
    """Return the figures of a row in the digits that there is room for."""
    distance, kernel, *others = QUANTITIES
    return [
        value_text(distance, figures),
        number_text(figures[kernel.key]),
        *(f"{figures[q.key]:.2f}" for q in others),
    ]


def _text_table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns, all but the first to the right, and cut the first to make room, but not beyond recognition."""
    _, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    room = min(max(len(row[0]) for row in rows), max(_WIDTH - sum(widths) - 2 * len(widths), _LEAST_WIDTH))
    lines = []
    for first, *cells in rows:
        start = first if len(first) <= room else f"{first[: room - 1]}…"
        lines.append("  ".join([start.ljust(room), *map(str.rjust, cells, widths)]).rstrip())
    return "\n".join(lines)
