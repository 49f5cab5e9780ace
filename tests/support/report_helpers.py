"""Example metrics and images of an evaluation, and reading the pages that are written about them."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from PIL import Image

from ddpm_cars.metrics.records import METRICS

MINUS = "\N{MINUS SIGN}"
VOID = {"meta", "img", "br", "hr", "link"}
IMAGES = (
    "samples denoising quality bits_by_timestep loss eps_mse spectrum neighbours_features neighbours_pixels"
).split()
HOSTILE = "<script>alert('1')</script> & \"<b>"
# Where the metrics hold text that comes from outside.
TEXTS = [
    ("model", "name"),
    ("model", "weights_sha256"),
    ("model", "variance_type"),
    ("data", "source"),
    ("data", "split"),
    ("data", "held_out_split"),
    ("extractor", "name"),
    ("extractor", "distance_name"),
    ("extractor", "resize"),
    ("versions", "torch"),
    ("samples", 0, "label"),
    ("samples", 1, "label"),
    ("likelihood", 0, "variance_type"),
    ("likelihood", 0, "chain"),
]


class Page(HTMLParser):
    """A page as a list of what stands in it; that every tag is closed is checked on the way."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.found: list[tuple[str, str]] = []
        self.classes: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
            self.found.append((tag, ""))
            self.classes.append(attributes.get("class", ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.found and self.open:
            tag, text = self.found[-1]
            self.found[-1] = tag, text + data

    @property
    def text(self) -> str:
        return " ".join(" ".join(text for tag, text in self.found if tag != "style").split())

    def all(self, tag: str) -> list[str]:
        return [text.strip() for found, text in self.found if found == tag]

    @property
    def images(self) -> list[bytes]:
        sources = [attributes["src"] for tag, attributes in self.tags if tag == "img"]
        assert all(source.startswith("data:image/png;base64,") for source in sources)
        return [base64.b64decode(source.partition(",")[2], validate=True) for source in sources]

    def rows(self, heading: str) -> list[list[str]]:
        """Return the cells of the first table below a heading."""
        source = self.path.read_text(encoding="utf-8")
        table = source[source.index(f"<h2>{heading}</h2>") :].partition("<table>")[2].partition("</table>")[0]
        rows = re.findall(r"<tr.*?</tr>", table, flags=re.DOTALL)
        cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, flags=re.DOTALL) for row in rows]
        return [[cell.replace(MINUS, "-") for cell in row] for row in cells]


def figures(distance: float, error: float, **changes: float) -> dict[str, float]:
    return {
        **{metric.key: 0.5 for metric in METRICS},
        "frechet_distance": distance,
        "frechet_distance_std_error": error,
        "kernel_distance": 0.01234,
        "kernel_distance_std": 0.00104,
        "precision": 0.7012,
        "recall": 0.4034,
        "density": 0.8056,
        "coverage": 0.6078,
        "contrast": 0.93,
        "spectrum_error_octaves": 0.3141,
        **changes,
    }


def sample(label: str, steps: int, metrics: dict[str, float], speed: float) -> dict[str, Any]:
    return {
        "label": label,
        "scheduler": "DDPMCarsScheduler",
        "variance_type": None,
        "num_inference_steps": steps,
        "num_images": 2000,
        "metrics": metrics,
        "images_per_second": speed,
    }


def bound(variance_type: str, chain: str, steps: int, bpd: float) -> dict[str, Any]:
    return {
        "variance_type": variance_type,
        "chain": chain,
        "num_inference_steps": steps,
        "num_images": 512,
        "bpd": bpd,
        "bpd_std_error": 0.021,
        "prior_bpd": 1e-4,
        "kl_bpd": 3.9012,
        "decoder_bpd": 0.2023,
        "terms": {"timesteps": [999, 0], "bpd": [3.9012, 0.2023]},
    }


def minimal_metrics() -> dict[str, Any]:
    """Only what is always measured."""
    return {
        "format": 1,
        "model": {
            "name": "runs/cars",
            "weights_sha256": "0123456789abcdef",
            "resolution": 32,
            "num_channels": 3,
            "num_parameters": 1743363,
            "num_train_timesteps": 1000,
            "prediction_type": "epsilon",
            "scheduler": "DDPMCarsScheduler",
            "variance_type": "fixed_small",
        },
        "data": {
            "source": "photographs",
            "split": "train",
            "num_images": 6633,
            "num_reference_images": 4633,
            "pictures_sha256": "89ab12cd34ef5678",
            "resize": "squash",
        },
        "seed": 17,
        "num_images": 2000,
        "extractor": {
            "name": "efficientnet-lite0",
            "distance_name": "FD-EfficientNet",
            "num_features": 1280,
            "resize": "bicubic to 224",
            "fingerprint": "fedcba9876543210",
        },
        "versions": {"ddpm-cars": "0.1.0", "torch": "2.13.0"},
        "floor": {"num_images": 1999, "metrics": figures(3.2104, 0.052, precision=0.8123, contrast=1.0012)},
        "samples": [sample("fixed_small", 100, figures(20.13, 0.31), 12.34)],
    }


def full_metrics() -> dict[str, Any]:
    """Everything that can be measured."""
    full = minimal_metrics()
    full["data"] |= {"held_out_split": "test", "num_held_out_images": 501}
    full["samples"] += [
        sample("DDIMScheduler", 10, figures(41.2, 1.9, precision=0.81, contrast=1.05), 123.0),
        sample("fixed_small", 10, figures(98.7, 2.6, recall=0.5), 122.0),
        sample("DDIMScheduler", 50, figures(19.04, 0.28, kernel_distance=0.0099), 24.6),
    ]
    full["likelihood"] = [bound("fixed_small", "all", 1000, 4.1036), bound("analytic", "least cost", 50, 4.0712)]
    full["eps_mse"] = {
        "num_images": 512,
        "timesteps": [0, 500, 999],
        "eps_mse": [0.91, 0.03, 0.00123],
        "eps_mse_std_error": [0.012, 0.001, 0.00004],
    }
    full["spectrum"] = {"radius": [0, 1], "real": [9.0, 1.0], "generated": {"fixed_small, 100 steps": [8.0, 1.0]}}
    full["memorisation"] = {
        "num_training_images": 6632,
        "features": {"share": 0.0124, "expected": 0.01, "threshold": 8.123},
        "pixels": {"share": 0.0087, "expected": 0.011, "threshold": 23.41},
    }
    full["cost"] = {"seconds": {"likelihood": 512.3, "samples": 7384.0, "distances": 1.25}, "peak_memory_mib": 1234}
    return full


def make_images(folder: Path) -> dict[str, Path]:
    """An image of a colour of its own for every name."""
    paths = {}
    for i, name in enumerate(IMAGES):
        paths[name] = folder / f"{name}.png"
        Image.new("RGB", (4, 3), (i, 2 * i, 3 * i)).save(paths[name])
    return paths


def put(metrics: dict[str, Any], keys: tuple[Any, ...], value: Any) -> None:
    """Set what lies in nested metrics at some keys."""
    *path, last = keys
    for key in path:
        metrics = metrics[key]
    metrics[last] = value
