"""The figures of an evaluation as plain text for a terminal."""

import textwrap
from collections.abc import Sequence

from ddpm_cars.metrics.records import BITS_PER_DIMENSION, FRECHET_DISTANCE, METRICS, Metric
from ddpm_cars.reports.wording import (
    DIRECTIONS,
    Metrics,
    bound_label,
    bpd_parts,
    comparability,
    copies,
    number_text,
    percent_text,
    value_text,
)

_WIDTH = 100
_LEAST_WIDTH = 16


def summary(metrics: Metrics) -> str:
    """Return the figures as plain text for a terminal, in lines of at most 100 characters.

    Single figures that metrics.json lacks are left blank.
    """
    directions = "; ".join(
        f"{words} for {', '.join(metric.short_name for metric in METRICS if metric.best == direction)}"
        for direction, words in DIRECTIONS.items()
    )
    intro = (
        f"{metrics['model']['name']}: {metrics['num_images']:,} generated images beside "
        f"{metrics['data']['num_reference_images']:,} real ones. FD is {metrics['extractor']['distance_name']}; "
        f"{comparability(metrics)}. The last row is real images in place of generated ones. "
        f"{directions[0].upper()}{directions[1:]}."
    )
    headings = ["sampler", "steps", *(metric.short_name for metric in METRICS), "images/s"]
    rows = [
        [
            sample["label"],
            str(sample["num_inference_steps"]),
            *(_short_text(metric, sample["metrics"]) for metric in METRICS),
            number_text(sample["images_per_second"]),
        ]
        for sample in metrics["samples"]
    ]
    floor = ["real images", "", *(_short_text(metric, metrics["floor"]["metrics"]) for metric in METRICS), ""]
    parts = [textwrap.fill(intro, _WIDTH), _text_table([headings, *rows, floor])]
    if bounds := metrics.get("likelihood"):
        lines = [[bound_label(bound), value_text(BITS_PER_DIMENSION, bound), *bpd_parts(bound)] for bound in bounds]
        parts.append(f"Bits per dimension at most, of {bounds[0]['num_images']:,} images; lower is better.")
        parts.append(_text_table([["variance and timesteps", "bits", "prior", "denoising", "decoder"], *lines]))
    found = [
        f"Near copies of training images by {space}: {percent_text(copied['share'])} of generated images, "
        f"{percent_text(copied['expected'])} of unseen ones."
        for space, copied in copies(metrics).items()
    ]
    return "\n\n".join([*parts, *(["\n".join(found)] if found else [])])


def _short_text(metric: Metric, figures: Metrics) -> str:
    """Write a metric in the digits that there is room for: the Fréchet distance alone has its error."""
    if metric is FRECHET_DISTANCE or metric.key not in figures:
        return value_text(metric, figures)
    # A metric without an error is about 0 to 1.
    return number_text(figures[metric.key]) if metric.error_key in figures else f"{figures[metric.key]:.2f}"


def _text_table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns, all but the first to the right, and cut the first to make room, but not beyond recognition."""
    _, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    room = min(max(len(row[0]) for row in rows), max(_WIDTH - sum(widths) - 2 * len(widths), _LEAST_WIDTH))
    lines = []
    for first, *cells in rows:
        start = first if len(first) <= room else f"{first[: room - 1]}…"
        lines.append("  ".join([start.ljust(room), *map(str.rjust, cells, widths)]).rstrip())
    return "\n".join(lines)
