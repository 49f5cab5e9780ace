"""TODO src/ddpm_cars/reports/quantities.py."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


def bound_label(bound: Mapping[str, Any]) -> str:
    """Name a record of metrics["likelihood"], such as "fixed_small, all 1000 steps" or "analytic, 50 leading"."""
    if bound["chain"] == "all":
        return f"{bound['variance_type']}, all {bound['num_inference_steps']} steps"
    return f"{bound['variance_type']}, {bound['num_inference_steps']} {bound['chain']}"


def sampler_label(sample: Mapping[str, Any]) -> str:
    """Name a record of metrics["samples"], as the keys of metrics["spectrum"]["generated"] do."""
    return f"{sample['label']}, {sample['num_inference_steps']} steps"


# What metrics.json holds, or a record of it.
Metrics = Mapping[str, Any]

MINUS = "\N{MINUS SIGN}"


class Quantity(NamedTuple):
    """A figure of a record of metrics["samples"]: its key there, its names, where it is best, and what it means."""

    key: str
    name: str
    short_name: str
    best: str
    meaning: str


QUANTITIES = tuple(
    Quantity(*fields)
    for fields in (
        ("frechet_distance", "Fréchet distance", "FD", "lower", "Between Gaussians fitted to the features of both."),
        ("kernel_distance", "Kernel distance", "kernel", "lower", "Between the features of both, Gaussian or not."),
        ("precision", "Precision", "prec", "higher", "Share of drawn images that lie among real ones."),
        ("recall", "Recall", "rec", "higher", "Share of real images that lie among drawn ones."),
        ("density", "Density", "dens", "higher", "How many real images surround a drawn one."),
        ("coverage", "Coverage", "cov", "higher", "Share of real images with a drawn one close by."),
        ("contrast", "Contrast", "contr", "at 1", "Standard deviation of drawn pixels over that of real ones."),
        ("spectrum_error_octaves", "Spectrum error", "spec", "lower", "Of the power by frequency, in octaves."),
    )
)

BPD = Quantity("bpd", "Bits per dimension", "bpd", "lower", "What a pixel value takes at most; 8 uncompressed.")

ARROWS = {"lower": "↓", "higher": "↑", "at 1": "→\u00a01"}


# Numbers and names


def number_text(value: float, error: float = 0) -> str:
    """Round to the digits that the error leaves, which has one or, from 1 on, two of its own; or to three.

    Args:
        value: Finite.
        error: Its standard error or standard deviation, above 0; 0 if there is none.

    Returns:
        Such as "20.1 ± 0.3" or "0.0123", with a true minus sign.
    """
    if error:
        exponent = math.floor(math.log10(error))
        decimals = max(0, (1 if error < 2 * 10**exponent else 0) - exponent)
        text = f"{value:,.{decimals}f} ± {error:,.{decimals}f}"
    else:
        text = f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")
    return text.replace("-", MINUS)


def error_of(quantity: Quantity, figures: Metrics) -> float:
    """Return the error that was measured, or 0.

    Args:
        quantity: Which figure.
        figures: A record with its key, and with its error as `..._std_error` or `..._std` if that was measured.
    """
    return figures.get(f"{quantity.key}_std_error", figures.get(f"{quantity.key}_std", 0))


def value_text(quantity: Quantity, figures: Metrics) -> str:
    """Return a figure of a record with its error, or with three decimals if it has none.

    Args:
        quantity: Which figure.
        figures: A record as in `error_of`.
    """
    error = error_of(quantity, figures)
    return number_text(figures[quantity.key], error) if error else f"{figures[quantity.key]:.3f}".replace("-", MINUS)


def sort_key(quantity: Quantity, value: float) -> float:
    """Return a number that is lower the better a value is."""
    return {"lower": value, "higher": -value, "at 1": abs(value - 1)}[quantity.best]


def percent_text(share: float) -> str:
    """Write a share from 0 to 1 in percent, with one decimal."""
    return f"{100 * share:.1f} %"


def duration_text(seconds: float) -> str:
    """Write a time of 0 seconds or more in words, such as "1 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {seconds} s"


def comparability(metrics: Metrics) -> str:
    """Say in a clause what the Fréchet distance cannot be compared with."""
    name = metrics["extractor"]["distance_name"]
    if name == "FID":
        return "FID of other numbers of images cannot be compared with it, and published FID is mostly of 50,000"
    return f"{name} cannot be compared with published FID"


def name_of(quantity: Quantity, metrics: Metrics) -> str:
    """Name a quantity; the Fréchet distance has the name that the extractor of the metrics gives it."""
    return metrics["extractor"]["distance_name"] if quantity.key == "frechet_distance" else quantity.name
