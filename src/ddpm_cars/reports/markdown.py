"""The evaluation as a section of a model card, in Markdown."""

from ddpm_cars.metrics.records import BITS_PER_DIMENSION
from ddpm_cars.reports.wording import (
    Metrics,
    bound_label,
    comparability,
    copies,
    metric_headings,
    metric_texts,
    number_text,
    percent_text,
    value_text,
)


def card_section(metrics: Metrics) -> str:
    """Return the figures in Markdown, without a heading: what a model card says of how good the model is.

    Args:
        metrics: What metrics.json holds. What was not measured is not mentioned, and single figures that it lacks are
            left blank.
    """
    data, extractor = metrics["data"], metrics["extractor"]
    rows = [
        [sample["label"], str(sample["num_inference_steps"]), *metric_texts(sample["metrics"])]
        for sample in metrics["samples"]
    ]
    floor = ["real images", "", *metric_texts(metrics["floor"]["metrics"])]
    parts = [
        f"{metrics['num_images']:,} images generated from seed {metrics['seed']} on, beside "
        f"{data['num_reference_images']:,} real ones of {plain(data['source'])} (made square by {data['resize']}). "
        f"The last row is real images in place of generated ones. Features: {plain(extractor['name'])}, "
        f"{plain(extractor['resize'])}; {plain(comparability(metrics))}.",
        table([["Sampler", "Steps", *metric_headings(metrics)], *rows, floor]),
    ]
    if bounds := metrics.get("likelihood"):
        lines = [[bound_label(bound), value_text(BITS_PER_DIMENSION, bound)] for bound in bounds]
        parts += [
            f"Bits per dimension at most, of {bounds[0]['num_images']:,} images of the held-out split "
            f"{plain(data['held_out_split'])}:",
            table([["Variance and timesteps", "Bits ↓"], *lines]),
        ]
    parts += [
        f"Near copies of training images by {space}: {percent_text(found['share'])} of generated images; "
        f"{percent_text(found['expected'])} of unseen images are as close (distance "
        f"{number_text(found['threshold'])})."
        for space, found in copies(metrics).items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in metrics["versions"].items())
    return "\n\n".join([*parts, f"Measured with {plain(versions)}."]) + "\n"


def plain(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    escaped = "".join(f"\\{c}" if c in "\\`*_[]<>|" else c for c in text)
    return " ".join(escaped.split())


def table(rows: list[list[str]]) -> str:
    """Return a table in Markdown; the first row is its heading, and all columns but the first are numbers."""
    heading, *others = ([plain(cell) for cell in row] for row in rows)
    alignments = ["---", *["---:"] * (len(heading) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, alignments, *others))
