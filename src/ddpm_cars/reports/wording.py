"""How figures, samplers and bounds are written in pages, tables and plots."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ddpm_cars.metrics.records import FRECHET_DISTANCE, METRICS, Metric, Quantity

# What metrics.json holds, or a record of it.
Metrics = Mapping[str, Any]

MINUS = "\N{MINUS SIGN}"
ARROWS = {"lower": "↓", "higher": "↑", "at 1": "→\u00a01"}
DIRECTIONS = {"lower": "lower is better", "higher": "higher is better", "at 1": "1 is best"}


def bound_label(bound: Metrics) -> str:
    """Name a record of metrics["likelihood"], such as "fixed_small, all 1000 steps" or "analytic, 50 leading"."""
    if bound["chain"] == "all":
        return f"{bound['variance_type']}, all {bound['num_inference_steps']} steps"
    return f"{bound['variance_type']}, {bound['num_inference_steps']} {bound['chain']}"


def sampler_label(sample: Metrics) -> str:
    """Name a record of metrics["samples"], as the keys of metrics["spectrum"]["generated"] do."""
    return f"{sample['label']}, {sample['num_inference_steps']} steps"


def name_of(quantity: Quantity, metrics: Metrics) -> str:
    """Name a quantity; the Fréchet distance has the name that the extractor of the metrics gives it."""
    return metrics["extractor"]["distance_name"] if quantity is FRECHET_DISTANCE else quantity.name


def shown_metrics(*several: Metrics) -> list[Metric]:
    """Return the metrics that all of some evaluations have images enough for; earlier versions measured the others."""
    return [m for m in METRICS if all(metrics["num_images"] >= m.min_images for metrics in several)]


def metrics_of_tables(metrics: Metrics) -> list[list[Metric]]:
    """Return the metrics that are shown, by table: those that few images make unstable, if any, are in the second."""
    shown = shown_metrics(metrics)
    return [part for part in ([m for m in shown if not m.min_images], [m for m in shown if m.min_images]) if part]


def left_out(*several: Metrics) -> str:
    """Say in a sentence which metrics are not shown because there are too few images; "" if all are shown."""
    shown = shown_metrics(*several)
    hidden = [metric for metric in METRICS if metric not in shown]
    if not hidden:
        return ""
    *names, last = (metric.name.lower() for metric in hidden)
    text = f"{', '.join(names)} and {last}" if names else last
    least = max(metric.min_images for metric in hidden)
    return f"{text[0].upper()}{text[1:]} are not shown, because they say too little of fewer than {least} images."


def metric_headings(metrics: Metrics, shown: Sequence[Metric]) -> list[str]:
    """Name some metrics, each with an arrow to where it is best."""
    return [f"{name_of(metric, metrics)} {ARROWS[metric.best]}" for metric in shown]


def sampler_row(sample: Metrics, shown: Sequence[Metric]) -> list[str]:
    """Write a record of metrics["samples"]: sampler, steps, and some metrics in the order of `metric_headings`."""
    texts = [value_text(metric, sample["metrics"]) for metric in shown]
    return [sample["label"], str(sample["num_inference_steps"]), *texts]


def comparability(metrics: Metrics) -> str:
    """Say in a clause what the Fréchet distance cannot be compared with."""
    name = metrics["extractor"]["distance_name"]
    if name == "FID":
        return "FID of another number of images cannot be compared with it, and published FID is mostly of 50,000"
    return (
        f"{name} cannot be compared with published FID, nor with that of another number of images than "
        f"{metrics['num_images']:,}"
    )


def number_text(value: float, error: float = 0) -> str:
    """Round to the digits that the error leaves, such as "20.1 ± 0.3", or without an error to three, "0.0123".

    The error itself has one digit, or two if its first digit is 1.
    """
    if error:
        exponent = math.floor(math.log10(error))
        decimals = max(0, (1 if error < 2 * 10**exponent else 0) - exponent)
        text = f"{value:,.{decimals}f} ± {error:,.{decimals}f}"
    else:
        text = f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")
    return text.replace("-", MINUS)


def value_text(quantity: Quantity, figures: Metrics) -> str:
    """Write a figure of a record with its error, with three decimals if it has none, or as "" if it is not there.

    An error of 0, as the kernel distance has that takes all images at once, is not written either.
    """
    if quantity.key not in figures:
        return ""
    value, error = figures[quantity.key], figures.get(quantity.error_key)
    return f"{value:.3f}".replace("-", MINUS) if error is None else number_text(value, error)


def bpd_parts(bound: Metrics) -> list[str]:
    """Write the bits of the prior, of denoising and of the decoder, which add up to those of a bound."""
    return [f"{bound[key]:.4f}" for key in ("prior_bpd", "kl_bpd", "decoder_bpd")]


def copies(metrics: Metrics) -> dict[str, Metrics]:
    """Return what was found of near copies, by the space in which distances were taken."""
    found = metrics.get("memorisation", {})
    return {space: found[space] for space in ("features", "pixels") if space in found}


def percent_text(share: float) -> str:
    """Write a share from 0 to 1 in percent, with one decimal."""
    return f"{100 * share:.1f} %"


def duration_text(seconds: float) -> str:
    """Write a time of 0 seconds or more in words, such as "1 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {seconds} s"


def plain_markdown(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    escaped = "".join(f"\\{c}" if c in "\\`*_[]<>|" else c for c in text)
    return " ".join(escaped.split())
