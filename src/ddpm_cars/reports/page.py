"""The report on one model: an HTML page that needs nothing beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm_cars.metrics.records import BITS_PER_DIMENSION, METRICS
from ddpm_cars.reports.render import render
from ddpm_cars.reports.wording import (
    Metrics,
    bpd_parts,
    copies,
    metric_headings,
    metric_texts,
    number_text,
    percent_text,
    sampler_row,
    value_text,
)
from ddpm_cars.runtime.files import write_text


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
    samples = metrics["samples"]
    labels = list(dict.fromkeys(sample["label"] for sample in samples))
    ordered = sorted(samples, key=lambda sample: (labels.index(sample["label"]), sample["num_inference_steps"]))
    best = set()
    for column, metric in enumerate(METRICS, start=2):
        figures = {row: sample["metrics"] for row, sample in enumerate(ordered) if metric.key in sample["metrics"]}
        keys = {row: metric.sort_key(found[metric.key]) for row, found in figures.items()}
        if len(samples) > 1:
            best |= {(row, column) for row, key in keys.items() if key == min(keys.values())}
    return {
        # Figures have two lines each, so that the columns are narrow.
        "headings": [
            *("Sampler", "Steps"),
            *(heading.replace(" ", "\n", 1) for heading in (*metric_headings(metrics), "Images per second")),
        ],
        "rows": [
            [label + ", as saved" * (sample is samples[0]), *texts, number_text(sample["images_per_second"])]
            for sample in ordered
            for label, *texts in (sampler_row(sample),)
        ],
        "best": best,
        "ruled": {i for i, s in enumerate(ordered) if i and s["label"] != ordered[i - 1]["label"]},
        "foot": ["Real images", "", *metric_texts(metrics["floor"]["metrics"]), ""],
    }


def _likelihood(bounds: Sequence[Metrics]) -> dict[str, Any]:
    lowest = min((bound["bpd"] for bound in bounds), default=0)
    return {
        "rows": [
            [
                bound["variance_type"],
                bound["chain"],
                str(bound["num_inference_steps"]),
                value_text(BITS_PER_DIMENSION, bound),
                *bpd_parts(bound),
            ]
            for bound in bounds
        ],
        "best": {(row, 3) for row, bound in enumerate(bounds) if bound["bpd"] == lowest and len(bounds) > 1},
    }
