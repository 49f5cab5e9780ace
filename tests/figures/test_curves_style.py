"""What all plots have in common."""

from xml.etree import ElementTree

import numpy as np
import pytest

from ddpm_cars.figures.curves import INK, figure_to_svg, label_ends, make_figure, spread


@pytest.mark.parametrize("seed", range(5))
def test_names_move_as_little_as_their_distance_demands(seed: int):
    rng = np.random.default_rng(seed)
    heights = np.clip(rng.normal(0.5, 0.2, 6), 0, 1)
    moved = np.array(spread(heights.tolist(), 0.1))
    assert (np.argsort(moved) == np.argsort(heights)).all()
    assert np.diff(np.sort(moved)).min() >= 0.1 - 1e-12
    assert 0 <= moved.min() <= moved.max() <= 1
    cost = np.square(moved - heights).sum()
    order = np.argsort(heights)
    for _ in range(300):
        # Any other heights that keep order, distance and range cost more.
        slack = 0.5 * rng.dirichlet(np.ones(7))[:6].cumsum()
        other = np.empty(6)
        other[order] = slack + 0.1 * np.arange(6)
        mixed = moved + 0.1 * (other - moved)
        assert np.square(mixed - heights).sum() >= cost - 1e-12


def test_names_with_room_stay_where_they_are():
    assert spread([0.9, 0.1, 0.5], 0.2) == pytest.approx([0.9, 0.1, 0.5])
    assert spread([0.5, 0.5], 0.2) == pytest.approx([0.4, 0.6])
    assert spread([1.0, 1.0], 0.2) == pytest.approx([0.8, 1.0])


def test_a_figure_on_a_page_has_the_colour_of_its_text_and_no_paper():
    figure, (axes,) = make_figure()
    axes.plot([0, 1], [0, 1], color="#3a98e8")
    axes.set(xlabel="t")
    label_ends(axes, [(1, 1, "end", INK)])
    svg = figure_to_svg(figure)
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "currentColor" in svg
    assert "#3a98e8" in svg
    assert INK not in svg
    assert "fill: #ffffff" not in svg


def test_a_name_stands_at_the_height_where_its_curve_ends():
    _, (axes,) = make_figure()
    axes.plot([0, 10], [0, 4])
    label_ends(axes, [(10, 4, "curve", INK)])
    (text,) = axes.texts
    assert text.get_text() == "curve"
    low, high = axes.get_ylim()
    assert text.xyann[1] == pytest.approx((4 - low) / (high - low))
