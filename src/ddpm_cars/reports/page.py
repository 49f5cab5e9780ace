"""What is written with the templates beside this module: pages on one model and on two, and the section of a card.

A page is an HTML file that needs nothing beside it: its style sheet and its images are inside.
"""

import base64
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from ddpm_cars.metrics.records import BITS_PER_DIMENSION, FRECHET_DISTANCE, METRICS, Quantity
from ddpm_cars.reports import wording
from ddpm_cars.reports.wording import (
    MINUS,
    Metrics,
    bound_label,
    bpd_parts,
    copies,
    left_out,
    metric_headings,
    metrics_of_tables,
    name_of,
    number_text,
    percent_text,
    plain_markdown,
    sampler_label,
    sampler_row,
    shown_metrics,
    value_text,
)
from ddpm_cars.runtime.files import write_text


def _count(number: Any) -> str:
    return f"{number:,}" if isinstance(number, int) else ""


def _data_url(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


# A value that metrics.json lacks is left blank, as jinja2 does unless it is told otherwise.
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=lambda name: name is not None and ".html" in name,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters.update(
    count=_count, data_url=_data_url, duration=wording.duration_text, plain=wording.plain_markdown
)
_ENVIRONMENT.globals.update(METRICS=METRICS, BITS_PER_DIMENSION=BITS_PER_DIMENSION, wording=wording)


def render(template: str, **values: Any) -> str:
    """Fill in a template; images are paths of PNG files.

    In pages, text is escaped; in Markdown it has to go through the filter `plain`.
    """
    return _ENVIRONMENT.get_template(template).render(values)


def write_report(metrics: Metrics, images: Mapping[str, Path], path: str | Path) -> Path:
    """Write the report on one model: an HTML file with everything in it, for any browser, wide or narrow.

    Args:
        metrics: What metrics.json holds. Sections of what was not measured are left out, and single figures that it
            lacks are left blank.
        images: PNG files by name, any of which may be absent: "samples", "denoising", "quality", "bits_by_timestep",
            "loss", "eps_mse", "spectrum", "neighbours_features", "neighbours_pixels".
        path: Where to write.

    Returns:
        `path`.

    Raises:
        OSError: If an image cannot be read or the file cannot be written.
    """
    path = Path(path)
    page = render(
        "report.html.jinja",
        title=f"Evaluation of {metrics['model']['name']}",
        metrics=metrics,
        images={name: (image,) for name, image in images.items()},
        quality=_quality(metrics),
        likelihood=_likelihood(metrics.get("likelihood", ())),
        copies=[
            [space, number_text(found["threshold"]), percent_text(found["share"]), percent_text(found["expected"])]
            for space, found in copies(metrics).items()
        ],
    )
    write_text(path, page)
    return path


def _quality(metrics: Metrics) -> dict[str, Any]:
    """Return the table of samplers by number of steps, with the best value of every column."""
    samples, shown = metrics["samples"], shown_metrics(metrics)
    floor = {"label": "Real images", "num_inference_steps": "", "metrics": metrics["floor"]["metrics"]}
    labels = list(dict.fromkeys(sample["label"] for sample in samples))
    ordered = sorted(samples, key=lambda sample: (labels.index(sample["label"]), sample["num_inference_steps"]))
    best = set()
    for column, metric in enumerate(shown, start=2):
        figures = {row: sample["metrics"] for row, sample in enumerate(ordered) if metric.key in sample["metrics"]}
        keys = {row: metric.sort_key(found[metric.key]) for row, found in figures.items()}
        if len(samples) > 1:
            best |= {(row, column) for row, key in keys.items() if key == min(keys.values())}
    return {
        # Figures have two lines each, so that the columns are narrow.
        "headings": [
            *("Sampler", "Steps"),
            *(heading.replace(" ", "\n", 1) for heading in (*metric_headings(metrics, shown), "Images per second")),
        ],
        "rows": [
            [label + ", as saved" * (sample is samples[0]), *texts, number_text(sample["images_per_second"])]
            for sample in ordered
            for label, *texts in (sampler_row(sample, shown),)
        ],
        "best": best,
        "ruled": {i for i, s in enumerate(ordered) if i and s["label"] != ordered[i - 1]["label"]},
        "foot": [*sampler_row(floor, shown), ""],
    }


def _likelihood(bounds: Sequence[Metrics]) -> dict[str, Any]:
    """Return the table of bounds, with the lowest."""
    rows = []
    for bound in bounds:
        chain = [bound["variance_type"], bound["chain"], str(bound["num_inference_steps"])]
        rows.append([*chain, value_text(BITS_PER_DIMENSION, bound), *bpd_parts(bound)])
    lowest = min((bound["bpd"] for bound in bounds), default=0)
    best = {(row, 3) for row, bound in enumerate(bounds) if bound["bpd"] == lowest and len(bounds) > 1}
    return {"rows": rows, "best": best}


def write_comparison(
    first: Metrics,
    second: Metrics,
    images: Mapping[str, tuple[Path, Path]],
    path: Path,
    bpd_difference: tuple[float, float] | None = None,
) -> None:
    """Write a report that sets two models, called A and B, side by side, as `write_report` does for one.

    A model is called better where the difference is more than two standard errors. `bpd_difference` is the mean of
    B's bits per dimension minus A's over the same images, by the first bound of each, and its standard error; None
    takes the errors of the two for independent.
    """
    differences = _differences(first, second)
    comparable, a, b = not differences, first["samples"][0]["metrics"], second["samples"][0]["metrics"]
    shown = shown_metrics(first, second)
    rows = [
        [heading, *_compared(metric, a, b, comparable), value_text(metric, first["floor"]["metrics"])]
        for heading, metric in zip(metric_headings(first, shown), shown, strict=True)
    ]
    if "likelihood" in first and "likelihood" in second:
        bounds = first["likelihood"][0], second["likelihood"][0]
        rows.append(
            [f"{BITS_PER_DIMENSION.name} ↓", *_compared(BITS_PER_DIMENSION, *bounds, comparable, bpd_difference), ""]
        )
    page = render(
        "comparison.html.jinja",
        title=f"{first['model']['name']} and {second['model']['name']}",
        models=(("A", first), ("B", second)),
        images=images,
        differences=differences,
        headings=["A", "B", f"B {MINUS} A", "Verdict"],
        figure_rows=rows,
        left_out=left_out(first, second),
        other_tables=_other_tables(first, second, comparable),
    )
    write_text(path, page)


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
    floor = value_text(FRECHET_DISTANCE, first["floor"]["metrics"])
    distance = f"{name_of(FRECHET_DISTANCE, first)} ↓ (real images: {floor})"
    for title, heading, key, label, quantity in (
        ("Quality by number of steps", distance, "samples", sampler_label, FRECHET_DISTANCE),
        ("Bits per dimension", "Bound ↓", "likelihood", bound_label, BITS_PER_DIMENSION),
    ):
        pairs = itertools.product(first.get(key, ()), second.get(key, ()))
        rows = [
            [label(a), *_compared(quantity, a.get("metrics", a), b.get("metrics", b), comparable)]
            for a, b in itertools.islice(pairs, 1, None)
            if label(a) == label(b)
        ]
        tables.append((title, heading, rows))
    return tables


def _compared(
    quantity: Quantity, a: Metrics, b: Metrics, comparable: bool, paired: tuple[float, float] | None = None
) -> list[str]:
    """Return the cells A, B, B - A and verdict.

    `paired` is the difference over the same images and its error; without it the errors are taken for independent.
    """
    cells = [value_text(quantity, figures) for figures in (a, b)]
    if not all(cells):
        return [*cells, "", ""]
    value_a, value_b = a[quantity.key], b[quantity.key]
    if paired is None:
        errors = [figures.get(quantity.error_key, 0) for figures in (a, b)]
        paired = value_b - value_a, math.hypot(*errors)
    difference, error = paired
    gain = quantity.sort_key(value_a) - quantity.sort_key(value_a + difference)
    if not comparable or not error:
        verdict = ""
    elif abs(gain) <= 2 * error:
        verdict = "no clear difference"
    else:
        verdict = "B is better" if gain > 0 else "A is better"
    sign = "+" if difference > 0 else ""
    return [*cells, sign + number_text(difference, error), verdict]


def card_section(metrics: Metrics) -> str:
    """Return the figures in Markdown, without a heading: what a model card says of how good the model is.

    The distance and the bits come first, with the floor and the errors; the shares of neighbours come last. What was
    not measured is not mentioned, and single figures that metrics.json lacks are left blank.
    """
    floor = {"label": "real images", "num_inference_steps": "", "metrics": metrics["floor"]["metrics"]}
    saved = metrics["samples"][0]["metrics"]
    quality, *neighbours = (
        markdown_table(
            [
                ["Sampler", "Steps", *metric_headings(metrics, part)],
                *(sampler_row(sample, part) for sample in (*metrics["samples"], floor)),
            ]
        )
        for part in metrics_of_tables(metrics)
    )
    bounds = [[bound_label(bound), value_text(BITS_PER_DIMENSION, bound)] for bound in metrics.get("likelihood", ())]
    return render(
        "card.md.jinja",
        metrics=metrics,
        quality=quality,
        neighbours="".join(neighbours),
        distance=f"{name_of(FRECHET_DISTANCE, metrics)} {value_text(FRECHET_DISTANCE, saved)}",
        floor=value_text(FRECHET_DISTANCE, floor["metrics"]),
        bits=markdown_table([["Variance and timesteps", "Bits ↓"], *bounds]),
    )


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; the first row is its heading, and all columns but the first are numbers."""
    heading, *others = ([plain_markdown(cell) for cell in row] for row in rows)
    alignments = ["---", *["---:"] * (len(heading) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, alignments, *others))
