"""The evaluation as a section of a model card, in Markdown."""

from ddpm_cars.metrics.records import BITS_PER_DIMENSION
from ddpm_cars.reports.render import render
from ddpm_cars.reports.wording import Metrics, bound_label, metric_headings, plain_markdown, sampler_row, value_text


def card_section(metrics: Metrics) -> str:
    """Return the figures in Markdown, without a heading: what a model card says of how good the model is.

    Args:
        metrics: What metrics.json holds. What was not measured is not mentioned, and single figures that it lacks are
            left blank.
    """
    floor = {"label": "real images", "num_inference_steps": "", "metrics": metrics["floor"]["metrics"]}
    rows = [sampler_row(sample) for sample in (*metrics["samples"], floor)]
    bounds = [[bound_label(bound), value_text(BITS_PER_DIMENSION, bound)] for bound in metrics.get("likelihood", ())]
    return render(
        "card.md.jinja",
        metrics=metrics,
        quality=table([["Sampler", "Steps", *metric_headings(metrics)], *rows]),
        bits=table([["Variance and timesteps", "Bits ↓"], *bounds]),
    )


def table(rows: list[list[str]]) -> str:
    """Return a table in Markdown; the first row is its heading, and all columns but the first are numbers."""
    heading, *others = ([plain_markdown(cell) for cell in row] for row in rows)
    alignments = ["---", *["---:"] * (len(heading) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, alignments, *others))
