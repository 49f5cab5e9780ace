"""The metrics of generated images. To add one, add its record to METRICS: everything else reads the records."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ddpm_cars.metrics.comparison import Comparison
from ddpm_cars.metrics.distances import frechet_distance_with_error, kernel_distance
from ddpm_cars.metrics.spectrum import contrast, spectrum_error_octaves


@dataclass(frozen=True)
class Quantity:
    """A figure that is measured, and what a reader needs to know of it.

    Attributes:
        key: Its name in metrics.json.
        name: Its name in a sentence or a heading.
        short_name: Its name where there is room for a few letters only.
        best: Which values are best.
        meaning: One sentence that says what is measured.
        error_kind: Its error is kept in metrics.json as `key` and this: a standard error, or a standard deviation.
    """

    key: str
    name: str
    short_name: str
    best: Literal["lower", "higher", "at 1"]
    meaning: str
    error_kind: Literal["std_error", "std"] = "std_error"

    @property
    def error_key(self) -> str:
        """The name of its error in metrics.json, which is there if an error was measured."""
        return f"{self.key}_{self.error_kind}"

    def sort_key(self, value: float) -> float:
        """Return a number that is lower the better a value is."""
        return {"lower": value, "higher": -value, "at 1": abs(value - 1)}[self.best]


@dataclass(frozen=True, kw_only=True)
class Metric(Quantity):
    """A quantity of a set of images beside real ones.

    Attributes:
        compute: Returns the value, or the value and its error.
    """

    compute: Callable[[Comparison], float | tuple[float, float]]


FRECHET_DISTANCE = Metric(
    key="frechet_distance",
    name="Fréchet distance",
    short_name="FD",
    best="lower",
    meaning="How far apart the features of generated and real images are, taken as two Gaussians.",
    compute=lambda c: frechet_distance_with_error(c.features, c.reference.moments),
)

METRICS = (
    FRECHET_DISTANCE,
    Metric(
        key="kernel_distance",
        name="Kernel distance",
        short_name="kernel",
        best="lower",
        meaning="How far apart the features of both are, whatever their distribution.",
        error_kind="std",
        compute=lambda c: kernel_distance(c.features, c.reference.features, seed=c.seed),
    ),
    Metric(
        key="precision",
        name="Precision",
        short_name="prec",
        best="higher",
        meaning="The share of generated images that lie among real ones.",
        compute=lambda c: c.neighbourhoods["precision"],
    ),
    Metric(
        key="recall",
        name="Recall",
        short_name="rec",
        best="higher",
        meaning="The share of real images that lie among generated ones.",
        compute=lambda c: c.neighbourhoods["recall"],
    ),
    Metric(
        key="density",
        name="Density",
        short_name="dens",
        best="higher",
        meaning="How many real images surround a generated one; about 1 if both are alike.",
        compute=lambda c: c.neighbourhoods["density"],
    ),
    Metric(
        key="coverage",
        name="Coverage",
        short_name="cov",
        best="higher",
        meaning="The share of real images that have a generated one close by.",
        compute=lambda c: c.neighbourhoods["coverage"],
    ),
    Metric(
        key="contrast",
        name="Contrast",
        short_name="contr",
        best="at 1",
        meaning="The standard deviation of generated pixels divided by that of real ones.",
        compute=lambda c: contrast(c.images) / c.reference.contrast,
    ),
    Metric(
        key="spectrum_error_octaves",
        name="Spectrum error",
        short_name="spec",
        best="lower",
        meaning="How far the strength of details of every size is from that of real images, in octaves.",
        compute=lambda c: spectrum_error_octaves(c.power, c.reference.power),
    ),
)
"""Every metric, in the order of tables. The first one stands for the whole where there is room for one only."""

BITS_PER_DIMENSION = Quantity(
    key="bpd",
    name="Bits per dimension",
    short_name="bpd",
    best="lower",
    meaning="How many bits a pixel value takes at most if the model compresses images; 8 without compression.",
)
"""The variational bound of held-out images: a quantity of the model and not of the images that it generates."""


def measure(comparison: Comparison) -> dict[str, float]:
    """Compute every metric of a set of images.

    Args:
        comparison: The images, and the real ones beside them.

    Returns:
        Values and errors by the keys of metrics.json.
    """
    figures = {}
    for metric in METRICS:
        found = metric.compute(comparison)
        if isinstance(found, tuple):
            figures[metric.key], figures[metric.error_key] = found
        else:
            figures[metric.key] = found
    return figures
