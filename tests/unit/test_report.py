"""The report on a model, the comparison of two, and the table for the terminal."""

import base64
import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ddpm_cars.report import _duration, _number, summary, write_comparison, write_report

MINUS = "\N{MINUS SIGN}"
VOID = {"meta", "img", "br", "hr", "link"}
PICTURES = (
    "samples denoising quality bits_by_timestep loss eps_mse spectrum neighbours neighbours_features neighbours_pixels"
).split()


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


@pytest.fixture
def minimal() -> dict[str, Any]:
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


@pytest.fixture
def metrics(minimal: dict[str, Any]) -> dict[str, Any]:
    """Everything that can be measured."""
    full = copy.deepcopy(minimal)
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


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, Path]:
    """A picture of a colour of its own for every name."""
    paths = {}
    for i, name in enumerate(PICTURES):
        paths[name] = tmp_path / f"{name}.png"
        Image.new("RGB", (4, 3), (i, 2 * i, 3 * i)).save(paths[name])
    return paths


def report(metrics: dict[str, Any], pictures: dict[str, Path], tmp_path: Path) -> Page:
    path = tmp_path / "new folder" / "report.html"
    assert write_report(metrics, pictures, path) == path
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return Page(path)


def test_the_report_is_one_file_that_asks_for_nothing(
    metrics: dict[str, Any], pictures: dict[str, Path], tmp_path: Path
):
    page = report(metrics, pictures, tmp_path)
    source = page.path.read_text(encoding="utf-8")
    assert "://" not in source
    assert "url(" not in source
    assert "@import" not in source
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object"})
    assert not any("href" in attributes or "srcset" in attributes for _, attributes in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")
    assert ("meta", {"charset": "utf-8"}) in page.tags
    assert any(attributes.get("name") == "viewport" for tag, attributes in page.tags if tag == "meta")


def test_the_pictures_are_in_the_report(metrics: dict[str, Any], pictures: dict[str, Path], tmp_path: Path):
    assert report(metrics, pictures, tmp_path).images == [pictures[name].read_bytes() for name in PICTURES]


@pytest.mark.parametrize(
    "expected",
    [
        "runs/cars",
        "1,743,363 parameters, 32 x 32 pixels, 3 channels, DDPMCarsScheduler (fixed_small), 1000 timesteps",
        "2,000 pictures, drawn with fixed_small, 100 steps, against 4,633 real ones",
        "what 1,999 other real pictures get",
        "FD-EfficientNet ↓ 20.1 ± 0.3 real pictures: 3.21 ± 0.05",
        "Kernel distance ↓ 0.0123 ± 0.0010 real pictures: 0.0123 ± 0.0010",
        "Bits per dimension ↓ 4.10 ± 0.02 fixed_small, all 1000 steps",
        "Precision ↑ 0.701 real pictures: 0.812",
        "Recall ↑ 0.403 real pictures: 0.403",
        "Density ↑ 0.806",
        "Coverage ↑ 0.608",
        "Contrast → 1 0.930 real pictures: 1.001",
        "Spectrum error ↓ 0.314",
        "not with published FID",
        "of 512 pictures takes at most",
        "the split test, which training has not seen",
        "over 512 pictures: 0.910 ± 0.012 at t = 0 and 0.00123 ± 0.00004 at t = 999",
        "nearer to one of 6,632 training pictures",
        "features 8.12 1.2 % 1.0 %",
        "pixels 23.4 0.9 % 1.1 %",
        "Seed 17",
        "weights 0123456789abcdef",
        "photographs, train: 6,633 pictures, 89ab12cd34ef5678",
        "Held out test: 501 pictures",
        "squash",
        "efficientnet-lite0, 1,280 features, fedcba9876543210",
        "bicubic to 224",
        "ddpm-cars 0.1.0, torch 2.13.0",
        "likelihood 8 min 32 s, samples 2 h 3 min, distances 1.2 s",
        "1,234 MiB",
    ],
)
def test_what_was_measured_is_told(metrics: dict[str, Any], pictures: dict[str, Path], tmp_path: Path, expected: str):
    assert expected in report(metrics, pictures, tmp_path).text


def test_samplers_are_grouped_with_the_floor_below(metrics: dict[str, Any], tmp_path: Path):
    _, *rows = report(metrics, {}, tmp_path).rows("Quality by number of steps")
    assert [row[:3] for row in rows] == [
        ["fixed_small", "10", "99 ± 3"],
        ["fixed_small, as saved", "100", "20.1 ± 0.3"],
        ["DDIMScheduler", "10", "41.2 ± 1.9"],
        ["DDIMScheduler", "50", "19.0 ± 0.3"],
        ["Real pictures", "", "3.21 ± 0.05"],
    ]
    assert [row[-1] for row in rows] == ["122", "12.3", "123", "24.6", ""]


def test_the_best_of_a_column_stands_out_and_it_is_never_the_floor(metrics: dict[str, Any], tmp_path: Path):
    page = report(metrics, {}, tmp_path)
    best = [text for (_, text), kind in zip(page.found, page.classes, strict=True) if kind == "best"]
    distance, kernel, precision, recall, contrast, bits = (
        "19.0 ± 0.3",
        "0.0099 ± 0.0010",
        "0.810",
        "0.500",
        "1.050",
        "4.07",
    )
    # Contrast is best at 1; what all samplers share stands out everywhere.
    ties = ["0.806", "0.608", "0.314"]
    assert sorted(best) == sorted([distance, kernel, precision, recall, contrast, f"{bits} ± 0.02", *4 * ties])


def test_a_sampler_alone_is_not_the_best(minimal: dict[str, Any], tmp_path: Path):
    page = report(minimal, {}, tmp_path)
    assert "best" not in page.classes
    assert "Every sampler" not in page.text


def test_bounds_are_a_table(metrics: dict[str, Any], tmp_path: Path):
    assert report(metrics, {}, tmp_path).rows("Bits per dimension")[1:] == [
        ["fixed_small", "all", "1000", "4.10 ± 0.02", "0.0001", "3.9012", "0.2023"],
        ["analytic", "least cost", "50", "4.07 ± 0.02", "0.0001", "3.9012", "0.2023"],
    ]


def test_what_was_not_measured_is_not_spoken_of(minimal: dict[str, Any], tmp_path: Path):
    page = report(minimal, {}, tmp_path)
    assert page.all("h2") == ["Figures", "Quality by number of steps", "How it was measured"]
    assert not page.images
    for word in ("Bits", "Held out", "Peak memory", "Time", "training pictures", "None", "nan", "figcaption"):
        assert word not in page.text


@pytest.mark.parametrize(
    ("parts", "names", "heading"),
    [
        (["likelihood"], ["bits_by_timestep"], "Bits per dimension"),
        (["eps_mse"], ["eps_mse", "loss"], "Loss"),
        (["spectrum"], ["spectrum"], "Spectrum"),
        (["memorisation"], ["neighbours", "neighbours_features", "neighbours_pixels"], "Memorisation"),
        ([], ["samples", "denoising"], "Pictures"),
    ],
)
def test_an_absent_part_leaves_no_heading(
    metrics: dict[str, Any],
    pictures: dict[str, Path],
    tmp_path: Path,
    parts: list[str],
    names: list[str],
    heading: str,
):
    everything = report(metrics, pictures, tmp_path).all("h2")
    less = {key: value for key, value in metrics.items() if key not in parts}
    fewer = {name: path for name, path in pictures.items() if name not in names}
    page = report(less, fewer, tmp_path)
    assert page.all("h2") == [title for title in everything if title != heading]
    assert len(page.images) == len(fewer)


def test_copies_without_unseen_pictures_are_shown_only(
    metrics: dict[str, Any], pictures: dict[str, Path], tmp_path: Path
):
    metrics["memorisation"] = {"num_training_images": 6632}
    page = report(metrics, pictures, tmp_path)
    assert "Memorisation" in page.all("h2")
    assert "Unseen pictures" not in page.text
    assert pictures["neighbours_pixels"].read_bytes() in page.images


HOSTILE = "<script>alert('1')</script> & \"<b>"


@pytest.mark.parametrize(
    "keys",
    [
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
    ],
)
def test_names_are_text_and_never_markup(metrics: dict[str, Any], tmp_path: Path, keys: tuple[Any, ...]):
    def pages() -> list[Page]:
        return [report(metrics, {}, tmp_path), Page(write_comparison(metrics, metrics, {}, tmp_path / "two.html"))]

    clean = pages()
    *path, last = keys
    part = metrics
    for key in path:
        part = part[key]
    part[last] = HOSTILE
    hostile = pages()
    assert HOSTILE in hostile[0].text
    for before, after in zip(clean, hostile, strict=True):
        assert [tag for tag, _ in before.tags] == [tag for tag, _ in after.tags]


# Two models


@pytest.fixture
def other(metrics: dict[str, Any]) -> dict[str, Any]:
    second = copy.deepcopy(metrics)
    second["model"]["name"] = "runs/longer"
    return second


def compare(first: dict[str, Any], second: dict[str, Any], tmp_path: Path, **options: Any) -> Page:
    path = tmp_path / "comparison.html"
    assert write_comparison(first, second, options.pop("pictures", {}), path, **options) == path
    return Page(path)


def verdict_on(page: Page, heading: str, name: str) -> list[str]:
    (row,) = (row for row in page.rows(heading) if row[0].startswith(name))
    return row[1:5]


@pytest.mark.parametrize(
    ("key", "name", "values", "errors", "expected"),
    [
        ("frechet_distance", "FD-", (20, 18), (0.3, 0.4), "20.0 ± 0.3|18.0 ± 0.4|-2.0 ± 0.5|B is better"),
        ("frechet_distance", "FD-", (20, 21.01), (0.3, 0.4), "20.0 ± 0.3|21.0 ± 0.4|+1.0 ± 0.5|A is better"),
        ("frechet_distance", "FD-", (20, 20.99), (0.3, 0.4), "20.0 ± 0.3|21.0 ± 0.4|+1.0 ± 0.5|no clear difference"),
        (
            "kernel_distance",
            "Kernel",
            (0.5, 0.4),
            (0.03, 0.041),
            "0.50 ± 0.03|0.40 ± 0.04|-0.10 ± 0.05|no clear difference",
        ),
        ("precision", "Precision", (0.7, 0.6), (0.03, 0.03), "0.70 ± 0.03|0.60 ± 0.03|-0.10 ± 0.04|A is better"),
        ("contrast", "Contrast", (1.4, 0.9), (0.02, 0.02), "1.40 ± 0.02|0.90 ± 0.02|-0.50 ± 0.03|B is better"),
        ("contrast", "Contrast", (1.1, 0.9), (0.02, 0.02), "1.10 ± 0.02|0.90 ± 0.02|-0.20 ± 0.03|no clear difference"),
        ("recall", "Recall", (0.7, 0.6), None, "0.700|0.600|-0.100|"),
    ],
)
def test_a_model_is_better_beyond_two_standard_errors(
    metrics: dict[str, Any],
    other: dict[str, Any],
    tmp_path: Path,
    key: str,
    name: str,
    values: tuple[float, float],
    errors: tuple[float, float] | None,
    expected: str,
):
    suffix = "std" if key == "kernel_distance" else "std_error"
    for i, each in enumerate((metrics, other)):
        each["samples"][0]["metrics"][key] = values[i]
        if errors is not None:
            each["samples"][0]["metrics"][f"{key}_{suffix}"] = errors[i]
    page = compare(metrics, other, tmp_path)
    assert verdict_on(page, "Figures", name) == expected.split("|")
    assert page.rows("Figures")[1][-1] == "3.21 ± 0.05"


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        (None, ["-0.01 ± 0.03", "no clear difference"]),
        ((-0.0112, 0.004), ["-0.011 ± 0.004", "B is better"]),
        ((0.0112, 0.002), ["+0.011 ± 0.002", "A is better"]),
        ((-0.0075, 0.004), ["-0.007 ± 0.004", "no clear difference"]),
    ],
)
def test_bits_are_compared_picture_by_picture(
    metrics: dict[str, Any],
    other: dict[str, Any],
    tmp_path: Path,
    difference: tuple[float, float] | None,
    expected: list[str],
):
    other["likelihood"][0]["bpd"] -= 0.0112
    page = compare(metrics, other, tmp_path, bpd_difference=difference)
    assert verdict_on(page, "Figures", "Bits") == ["4.10 ± 0.02", "4.09 ± 0.02", *expected]


def test_samplers_and_bounds_of_both_are_compared(metrics: dict[str, Any], other: dict[str, Any], tmp_path: Path):
    other["samples"][1]["metrics"]["frechet_distance"] = 30.0
    other["samples"][2]["label"] = "spectral"
    other["samples"][3], other["samples"][0] = other["samples"][0], other["samples"][3]
    other["likelihood"][1]["bpd"] = 4.4
    page = compare(metrics, other, tmp_path)
    assert page.rows("Quality by number of steps")[1:] == [
        ["fixed_small, 100 steps", "20.1 ± 0.3", "20.1 ± 0.3", "0.0 ± 0.4", "no clear difference"],
        ["DDIMScheduler, 10 steps", "41.2 ± 1.9", "30.0 ± 1.9", "-11 ± 3", "B is better"],
        ["DDIMScheduler, 50 steps", "19.0 ± 0.3", "19.0 ± 0.3", "0.0 ± 0.4", "no clear difference"],
    ]
    assert page.rows("Bits per dimension")[1:] == [
        ["analytic, 50 least cost", "4.07 ± 0.02", "4.40 ± 0.02", "+0.33 ± 0.03", "A is better"]
    ]


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (("num_images",), 1000, "number of drawn pictures (2000 and 1000)"),
        (("data", "num_reference_images"), 99, "number of real pictures (4633 and 99)"),
        (("data", "pictures_sha256"), "00", "data (89ab12cd34ef5678 and 00)"),
        (("extractor", "fingerprint"), "11", "extractor (fedcba9876543210 and 11)"),
    ],
)
def test_models_that_were_measured_differently_get_a_warning_and_no_verdict(
    metrics: dict[str, Any], other: dict[str, Any], tmp_path: Path, keys: tuple[str, ...], value: Any, words: str
):
    other["samples"][0]["metrics"]["frechet_distance"] = 1.0
    assert "B is better" in compare(metrics, other, tmp_path).text
    assert "Measured differently" not in compare(metrics, other, tmp_path).text
    *path, last = keys
    part = other
    for key in path:
        part = part[key]
    part[last] = value
    page = compare(metrics, other, tmp_path, bpd_difference=(-1.0, 0.01))
    assert words in page.text
    assert "is better:" in page.text
    assert not {"A is better", "B is better", "no clear difference"} & set(page.all("td"))


def test_pictures_of_both_stand_side_by_side(
    metrics: dict[str, Any], other: dict[str, Any], pictures: dict[str, Path], tmp_path: Path
):
    pairs = {name: (pictures[name], pictures["samples"]) for name in PICTURES}
    page = compare(metrics, other, tmp_path, pictures=pairs)
    first = pictures["samples"].read_bytes()
    assert sorted(page.images[::2]) == sorted(path.read_bytes() for path in pictures.values())
    assert set(page.images[1::2]) == {first}
    assert page.all("b") == ["A", "B"] * len(PICTURES)
    assert "side" in page.classes
    assert "runs/cars and runs/longer" in page.text


def test_a_comparison_of_the_least_has_few_headings(minimal: dict[str, Any], tmp_path: Path):
    page = compare(minimal, copy.deepcopy(minimal), tmp_path)
    assert page.all("h2") == ["Figures", "How A was measured", "How B was measured"]


# The terminal


def test_the_summary_has_a_row_a_sampler_and_the_floor_last(metrics: dict[str, Any]):
    lines = summary(metrics).splitlines()
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("sampler")) :][:6]
    assert [line.split() for line in table] == [
        ["sampler", "steps", "FD", "kernel", "prec", "rec", "dens", "cov", "contr", "spec", "images/s"],
        "fixed_small 100 20.1 ± 0.3 0.0123 0.70 0.40 0.81 0.61 0.93 0.31 12.3".split(),
        "DDIMScheduler 10 41.2 ± 1.9 0.0123 0.81 0.40 0.81 0.61 1.05 0.31 123".split(),
        "fixed_small 10 99 ± 3 0.0123 0.70 0.50 0.81 0.61 0.93 0.31 122".split(),
        "DDIMScheduler 50 19.0 ± 0.3 0.00990 0.70 0.40 0.81 0.61 0.93 0.31 24.6".split(),
        "real pictures 3.21 ± 0.05 0.0123 0.81 0.40 0.81 0.61 1.00 0.31".split(),
    ]
    # Columns end at the same place.
    ends = [[match.end() for match in re.finditer(r"\S+( ± \S+)?(?=  |$)", line)] for line in table]
    assert all(row[1:] == ends[0][1:] for row in ends[1:-1])
    assert ends[-1][1:] == ends[0][2:-1]


def test_the_summary_tells_bits_and_copies(metrics: dict[str, Any], minimal: dict[str, Any]):
    text = " ".join(summary(metrics).split())
    assert "runs/cars: 2,000 drawn pictures against 4,633 real ones." in text
    assert "FD is FD-EfficientNet, which cannot be compared with published FID." in text
    assert "of 512 pictures" in text
    assert "fixed_small, all 1000 steps 4.10 ± 0.02 0.0001 3.9012 0.2023" in text
    assert "analytic, 50 least cost 4.07 ± 0.02" in text
    assert "by features: 1.2 %, of unseen pictures 1.0 %." in text
    assert "by pixels: 0.9 %, of unseen pictures 1.1 %." in text
    assert not re.search("Bits|copies|None", summary(minimal))


@pytest.mark.parametrize("label", ["x", "DPMSolverMultistepScheduler", "a" * 90])
@pytest.mark.parametrize("distance", [1.0, 12345.6])
def test_the_summary_fits_a_terminal(metrics: dict[str, Any], label: str, distance: float):
    metrics["samples"][1]["label"] = label
    metrics["samples"][1]["metrics"] |= {"frechet_distance": distance, "kernel_distance": -1.234e-5}
    metrics["model"]["name"] = "/".join(["a long folder"] * 12)
    lines = summary(metrics).splitlines()
    assert max(map(len, lines)) <= 100
    (row,) = (line for line in lines if "1.23e" in line)
    assert row.startswith(label[:10])
    assert ("…" in row) == (len(label) > 25)


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (20.13, 0.31, "20.1 ± 0.3"),
        (20.13, 0.11, "20.13 ± 0.11"),
        (20.13, 3.1, "20 ± 3"),
        (1234.5, 56, "1,234 ± 56"),
        (0.0123, 0.00104, "0.0123 ± 0.0010"),
        (-0.5, 0.02, "-0.50 ± 0.02"),
        (5.0, 0.1, "5.00 ± 0.10"),
        (5.0, 0.2, "5.0 ± 0.2"),
        (0.7, 0, "0.700"),
        (8.1, 0, "8.10"),
        (123.0, 0, "123"),
        (999.7, 0, "1,000"),
        (12345.6, 0, "12,346"),
        (-0.00001234, 0, "-1.23e-05"),
    ],
)
def test_numbers_have_the_digits_that_their_error_leaves(value: float, error: float, expected: str):
    assert _number(value, error) == expected.replace("-", MINUS)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 0 s"), (512.3, "8 min 32 s"), (3599.6, "1 h 0 min")],
)
def test_durations_are_in_words(seconds: float, expected: str):
    assert _duration(seconds) == expected
