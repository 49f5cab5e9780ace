"""The evaluation as a section of a model card, in Markdown."""

from ddpm_cars.reports.quantities import (
    ARROWS,
    BPD,
    QUANTITIES,
    Metrics,
    bound_label,
    comparability,
    name_of,
    number_text,
    percent_text,
    value_text,
)


def card_section(metrics: Metrics) -> str:
    """Return the figures in Markdown, without a heading: what a model card says of how good the model is.

    Args:
        metrics: What metrics.json holds; what it leaves out is not spoken of.
    """
    data, extractor = metrics["data"], metrics["extractor"]
    headings = ["Sampler", "Steps", *(f"{name_of(q, metrics)} {ARROWS[q.best]}" for q in QUANTITIES)]
    rows = [
        [s["label"], str(s["num_inference_steps"]), *(value_text(q, s["metrics"]) for q in QUANTITIES)]
        for s in metrics["samples"]
    ]
    floor = ["real images", "", *(value_text(q, metrics["floor"]["metrics"]) for q in QUANTITIES)]
    parts = [
        f"{metrics['num_images']:,} images drawn from seed {metrics['seed']} on, against "
        f"{data['num_reference_images']:,} real ones of {plain(data['source'])} (made square by {data['resize']}). "
        f"The last row is real images in place of drawn ones. Features: {plain(extractor['name'])}, "
        f"{plain(extractor['resize'])}; {plain(comparability(metrics))}.",
        table([headings, *rows, floor]),
    ]
    if bounds := metrics.get("likelihood"):
        lines = [[bound_label(bound), value_text(BPD, bound)] for bound in bounds]
        parts += [
            f"Bits per dimension at most, of {bounds[0]['num_images']:,} images of the held-out split "
            f"{plain(data['held_out_split'])}:",
            table([["Variance and timesteps", "Bits ↓"], *lines]),
        ]
    for space in ("features", "pixels"):
        if found := metrics.get("memorisation", {}).get(space):
            parts.append(
                f"Near copies of training images by {space}: {percent_text(found['share'])}; "
                f"{percent_text(found['expected'])} of unseen images are as near "
                f"(distance {number_text(found['threshold'])})."
            )
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
