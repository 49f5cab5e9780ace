"""The section of a model card about the figures."""

from typing import Any

import pytest

from ddpm_cars.reports.page import card_section
from tests.support.report_helpers import HOSTILE, TEXTS, full_metrics, minimal_metrics, put


def tables(text: str) -> list[list[list[str]]]:
    """Return the cells of every table, as a reader of GitHub's Markdown finds them."""
    found: list[list[list[str]]] = []
    for block in text.split("\n\n"):
        lines = block.strip().splitlines()
        if lines[0].startswith("| "):
            assert all(line.startswith("| ") and line.endswith(" |") for line in lines)
            rows = [[cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")] for line in lines]
            assert len({len(row) for row in rows}) == 1
            assert set("".join(rows[1])) == {"-", ":"}
            found.append([rows[0], *rows[2:]])
    return found


def test_every_sampler_and_bound_has_a_row_and_the_floor_is_last():
    metrics = full_metrics()
    text = card_section(metrics)
    quality, bits, neighbours = tables(text)
    for table in (quality, neighbours):
        assert [row[:2] for row in table[1:-1]] == [
            [sample["label"].replace("_", "\\_"), str(sample["num_inference_steps"])] for sample in metrics["samples"]
        ]
        assert table[-1][0] == "real images"
    assert [heading.split()[0] for heading in neighbours[0][2:]] == ["Precision", "Recall", "Density", "Coverage"]
    assert len(bits) == 1 + len(metrics["likelihood"])
    assert bits[1] == ["fixed\\_small, all 1000 steps", "4.10 ± 0.02"]


def test_the_distance_and_the_bits_come_first_with_what_real_images_reach():
    first = card_section(full_metrics()).lstrip().partition("\n")[0]
    assert first == (
        "**FD-EfficientNet 20.1 ± 0.3** of 2,000 images, fixed\\_small, 100 steps; as many real images in place of "
        "generated ones reach 3.21 ± 0.05. **Bits per dimension 4.10 ± 0.02** at most, of 512 images of the held-out "
        "split test, fixed\\_small, all 1000 steps."
    )


def test_shares_of_neighbours_have_errors_and_are_left_out_of_few_images_also_where_earlier_versions_had_them():
    metrics = full_metrics()
    for record in (*metrics["samples"], metrics["floor"]):
        record["metrics"] |= {"precision_std_error": 0.012, "recall_std_error": 0.02}
    assert tables(card_section(metrics))[-1][1][2:4] == ["0.701 ± 0.012", "0.40 ± 0.02"]
    metrics["num_images"] = 299
    text = card_section(metrics)
    assert len(tables(text)) == 2
    assert "Precision ↑" not in text
    assert (
        "Precision, recall, density and coverage are not shown, because they say too little of fewer than 300 images."
    ) in text


@pytest.mark.parametrize(
    "words",
    [
        "2,000 images generated from seed 17 on, beside 4,633 real ones",
        "FD-EfficientNet cannot be compared with published FID",
        "of the held-out split test",
        "Near copies of training images by features: 1.2 % of generated images; 1.0 % of unseen images are as close",
        "torch 2",
    ],
)
def test_what_was_measured_with_what_is_told(words: str):
    assert words in card_section(full_metrics())


def test_what_was_not_measured_is_not_spoken_of():
    text = card_section(minimal_metrics())
    assert len(tables(text)) == 2
    assert "Bits" not in text
    assert "copies" not in text
    assert "None" not in text


@pytest.mark.parametrize("keys", TEXTS, ids=lambda keys: "/".join(map(str, keys)))
def test_text_from_outside_stays_text(keys: tuple[Any, ...]):
    metrics = full_metrics()
    put(metrics, keys, HOSTILE + " | `x`\n# Heading")
    text = card_section(metrics)
    assert len(tables(text)) == 3
    assert "<script" not in text.replace("\\<", "")
    assert not any(line.startswith("#") for line in text.splitlines())
