"""The figures of an evaluation as plain text for a terminal."""

import textwrap
from collections.abc import Sequence

from ddpm_cars.metrics.records import BITS_PER_DIMENSION
from ddpm_cars.reports.wording import (
    DIRECTIONS,
    Metrics,
    bound_label,
    bpd_parts,
    comparability,
    copies,
    left_out,
    metrics_of_tables,
    number_text,
    percent_text,
    sampler_row,
    shown_metrics,
    value_text,
)

_WIDTH = 100
_LEAST_WIDTH = 27


def summary(metrics: Metrics) -> str:
    """Return the figures as plain text for a terminal, in lines of at most 100 characters.

    Single figures that metrics.json lacks are left blank.
    """
    shown = shown_metrics(metrics)
    names = {best: [metric.short_name for metric in shown if metric.best == best] for best in DIRECTIONS}
    directions = "; ".join(f"{DIRECTIONS[best]} for {', '.join(found)}" for best, found in names.items() if found)
    intro = (
        f"{metrics['model']['name']}: {metrics['num_images']:,} generated images beside "
        f"{metrics['data']['num_reference_images']:,} real ones. FD is {metrics['extractor']['distance_name']}; "
        f"{comparability(metrics)}. The last row is real images in place of generated ones. "
        f"{directions[0].upper()}{directions[1:]}. {left_out(metrics)}"
    )
    heads = "; ".join(f"{metric.short_name} is {metric.name.lower()}" for metric in shown[1:])
    parts = [
        textwrap.fill(intro, _WIDTH),
        textwrap.fill(f"In the tables, {heads}.", _WIDTH),
        *_sampler_tables(metrics),
    ]
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


def _sampler_tables(metrics: Metrics) -> list[str]:
    """Return the tables of the metrics: samplers, and real images last."""
    tables: list[str] = []
    for shown in metrics_of_tables(metrics):
        rows = [["sampler", "steps", *(metric.short_name for metric in shown)]]
        rows += [sampler_row(sample, shown) for sample in metrics["samples"]]
        rows.append(["real images", "", *(value_text(metric, metrics["floor"]["metrics"]) for metric in shown)])
        if not tables:
            speeds = (number_text(sample["images_per_second"]) for sample in metrics["samples"])
            rows = [[*row, speed] for row, speed in zip(rows, ["images/s", *speeds, ""], strict=True)]
        tables.append(_text_table(rows, num_headings=2))
    return tables


def _text_table(rows: Sequence[Sequence[str]], num_headings: int = 1) -> str:
    """Align columns, all but the first to the right, in as many tables below one another as the width asks for.

    Each has the first `num_headings` columns. The very first is cut to make room, but not beyond recognition.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    heading, others = sum(widths[1:num_headings]) + 2 * (num_headings - 1), range(num_headings, len(widths))
    room = min(widths[0], max(_WIDTH - heading - sum(widths[i] + 2 for i in others), _LEAST_WIDTH))
    blocks: list[list[int]] = [[]]
    for i in others:
        if blocks[-1] and room + heading + sum(widths[j] + 2 for j in (*blocks[-1], i)) > _WIDTH:
            blocks.append([])
        blocks[-1].append(i)
    return "\n\n".join(_block(rows, [*range(1, num_headings), *block], widths, room) for block in blocks)


def _block(rows: Sequence[Sequence[str]], columns: Sequence[int], widths: Sequence[int], room: int) -> str:
    lines = []
    for row in rows:
        start = row[0] if len(row[0]) <= room else f"{row[0][: room - 1]}…"
        lines.append("  ".join([start.ljust(room), *(row[i].rjust(widths[i]) for i in columns)]).rstrip())
    return "\n".join(lines)
