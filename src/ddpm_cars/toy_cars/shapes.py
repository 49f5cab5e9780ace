"""Colours, and the outlines that toy cars are drawn with."""

import math
from functools import cache

import numpy as np

Color = tuple[int, int, int]
Shape = np.ndarray  # a closed outline, (points, 2)
_CIRCLE: Shape = np.array([(math.cos(k * math.pi / 24), math.sin(k * math.pi / 24)) for k in range(48)])


@cache
def read_points(table: str) -> np.ndarray:
    """Read "x y radius, x y radius, ..." into an array of corners, shape `(n, 3)`."""
    return np.array([[float(number) for number in corner.split()] for corner in table.split(",")])


@cache
def read_colors(table: str) -> tuple[Color, ...]:
    """Read "rrggbb rrggbb ..." into colours."""
    return tuple((int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16)) for code in table.split())


def mix(first: Color, second: Color, share: float) -> Color:
    """Find the colour that is `share` of the way from `first` to `second`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def rounded(corners: np.ndarray) -> Shape:
    """Round the corners of a polygon with quadratic Bezier curves.

    Args:
        corners: Rows of x, y and radius, shape `(n, 3)`.

    Returns:
        The outline, eight points to a corner.
    """
    here, radius = corners[:, None, :2], corners[:, 2]
    arms = []
    order = np.arange(len(corners))
    for neighbour in (corners[order - 1], corners[order + 1 - len(corners)]):
        along = neighbour[:, :2] - corners[:, :2]
        distance = np.hypot(along[:, 0], along[:, 1])
        # Two roundings on one edge must not cross, so each takes at most half of it.
        arms.append((along * (np.minimum(radius, distance / 2) / distance)[:, None])[:, None])
    t = np.linspace(0, 1, 8)[None, :, None]
    return (here + arms[0] * (1 - t) ** 2 + arms[1] * t**2).reshape(-1, 2)


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> Shape:
    """Outline an ellipse around `(x, y)`."""
    return _CIRCLE * (radius_x, radius_y) + (x, y)


def box(left: float, bottom: float, right: float, top: float) -> Shape:
    """Outline a rectangle."""
    return np.array([(left, bottom), (left, top), (right, top), (right, bottom)])
