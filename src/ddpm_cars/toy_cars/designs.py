"""What toy cars are made of: body types, paints, backdrops, and the scene that a seed picks from them.

All car measures are in percent of the car's length: x runs from the front bumper (0) to the rear bumper (100),
y from the road (0) upwards. Every car faces left: training mirrors images at random.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

Color = tuple[int, int, int]
Shape = np.ndarray  # a closed outline, (points, 2)

WHITE: Color = (255, 255, 255)
NIGHT: Color = (26, 28, 44)
RUBBER: Color = (38, 39, 48)
PLASTIC: Color = (54, 56, 66)
LAMP: Color = (255, 248, 222)
TAIL_LAMP: Color = (214, 44, 50)
GLASS: tuple[Color, ...] = ((58, 78, 108), (108, 140, 168), (172, 200, 216))
WHEELS = (19.3, 79.7)  # x of the hubs


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
    """Round the corners of a polygon, rows of x, y and radius, with Bezier curves of eight points to a corner."""
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


@dataclass(frozen=True)
class Profile:
    """A body type. Shapes are corner tables "x y radius, ..."; a large radius makes a long soft bend."""

    body: str
    glass: str
    pillars: tuple[tuple[float, float], ...]  # x at the bottom and at the top of each bar across the glass
    seams: tuple[float, ...]  # x of the door gaps, front to rear
    lamp: str
    tail_lamp: str
    wheel_radius: float = 8.8
    behind: tuple[str, ...] = ()  # dark parts that show from behind the body
    trim: tuple[str, ...] = ()  # plastic parts on top of the body
    cladding: bool = False  # plastic sills and wheel arches
    roof_paint: bool = False  # may carry a roof in a second colour


PROFILES: dict[str, Profile] = {
    "saloon": Profile(
        body="1.5 7 2, 0 13 4, 1.5 20.5 5, 28 24.5 8, 41 35.5 9, 65 36.5 14, 82 25.5 8, 98 24.5 3, 100 16 5, 98.5 7 2",
        glass="31 24.5 1, 42.5 33.5 6, 64 34.3 10, 77.5 25 2",
        pillars=((54, 54), (69.5, 67)),
        seams=(31, 53.5, 71),
        lamp="0 15 0, 0 20 0, 9 20.6 2, 7 17 2",
        tail_lamp="93 22.5 1, 101 23 0, 101 18 0, 95 18.5 2",
    ),
    "hatchback": Profile(
        body="1.5 7 2, 0 14 4, 2 22 7, 25 27.5 8, 40 40.5 12, 78 41.5 14, 94 28 8, 99 25 4, 100 15 4, 98 7 2",
        glass="29 27.5 1, 41.5 38 7, 74 39 8, 86.5 28.5 2",
        pillars=((56, 56), (76, 73)),
        seams=(29, 56, 76),
        lamp="0 16 0, 0 22 0, 10 23.8 2, 8 18.5 3",
        tail_lamp="91.5 27 1, 101 26.5 0, 101 20 0, 94 21 2",
        wheel_radius=9.6,
        roof_paint=True,
    ),
    "city car": Profile(
        body="2 7 2, 0 15 5, 2.5 27 9, 18 32.5 8, 33 50 14, 76 51 16, 95 36 12, 99 28 6, 100 15 5, 98 7 2",
        glass="22 33 2, 35.5 47 9, 73 48 11, 87 34 3",
        pillars=((58, 58),),
        seams=(23, 59),
        lamp="1 20 0, 1 27 0, 9 29.5 4, 11 24 4, 6 20.5 3",
        tail_lamp="93 32 1, 101 32 0, 101 24 0, 94.5 25 2",
        wheel_radius=11,
        roof_paint=True,
    ),
    "estate": Profile(
        body="1.5 7 2, 0 13 4, 1.5 20.5 5, 27 24.5 8, 39 36 9, 70 37.5 20, 90 36.5 4, 98 24 6, 100 15 4, 98.5 7 2",
        glass="30 24.5 1, 40.5 34 6, 70 35.3 20, 87 34.6 2, 92 25.3 2",
        pillars=((51.5, 51.5), (70, 69)),
        seams=(30, 51, 69),
        lamp="0 15 0, 0 20 0, 9 20.6 2, 7 17 2",
        tail_lamp="93.5 25 1, 101 25 0, 101 17.5 0, 95.5 18 2",
        trim=("44 37 0, 46 38.6 1, 84 38.6 1, 86 37 0",),
    ),
    "coupe": Profile(
        body="1.5 6.5 2, 0 12 4, 2 18 6, 32 23 10, 48 32.5 12, 64 32.5 14, 88 24 12, 99 23.5 2, 100 14 5, 98 6.5 2",
        glass="36 23 1, 49.5 30.7 7, 63 30.7 10, 77 24.3 3",
        pillars=((68, 64),),
        seams=(35.5, 67.5),
        lamp="0 14.5 0, 1 18 0, 11 19.6 1, 8 16.5 3",
        tail_lamp="90 21.5 1, 101 22 0, 101 18.5 0, 91 18.8 1",
        wheel_radius=9,
        roof_paint=True,
    ),
    "suv": Profile(
        body="1.5 9 2, 0 16 4, 1 26 5, 25 30 5, 36 43.5 9, 70 44.5 20, 90 43.5 6, 97.5 29 5, 100 18 4, 98.5 9 2",
        glass="28.5 30 1, 38 41 6, 70 42 20, 86.5 41.2 3, 91 30.7 2",
        pillars=((52, 52), (71.5, 70.5)),
        seams=(28.5, 52, 71),
        lamp="0 20.5 0, 0 26 0, 9 26.8 2, 8 22 2",
        tail_lamp="93.5 31 1, 101 31 0, 101 22 0, 95 22 2",
        wheel_radius=10.6,
        trim=("41 44 0, 43 46 1, 83 46.2 1, 86 44.2 0",),
        cladding=True,
        roof_paint=True,
    ),
    "pickup": Profile(
        body="1.5 9 2, 0 15 3, 0.5 24.5 4, 24 27.5 5, 34 40.5 8, 55 41 6, 61 28 1, 98.5 28 1.5, 100 16 3, 98.5 9 2",
        glass="27.5 27.5 1, 36 38.3 5, 53.5 38.7 3, 57.5 28.2 2",
        pillars=((44.5, 44.5),),
        seams=(27.5, 44.5, 60),
        lamp="0 19 0, 0 24 0, 7 24.6 1.5, 6.5 19.5 1.5",
        tail_lamp="96.5 27 0.5, 101 27 0, 101 19.5 0, 96.5 19.5 0.5",
        wheel_radius=9.8,
        trim=("62 27.4 0, 62 29.2 0.5, 99 29.2 0.5, 99 27.4 0",),
        cladding=True,
    ),
    "van": Profile(
        body="1.5 8 2, 0 16 4, 2 26 6, 12 31.5 6, 25 46.5 9, 50 48.5 25, 95 48 4, 99 30 8, 100 16 3, 99 8 2",
        glass="14.5 31 2, 26.5 44.2 6, 40.5 45 2, 40.5 30 2",
        pillars=((22, 27),),
        seams=(22, 42, 66),
        lamp="0.5 20 0, 0.5 26.5 0, 9 28 3, 7 22 3",
        tail_lamp="97 33 0.5, 101 33 0, 101 22 0, 97 22 0.5",
        wheel_radius=9,
    ),
    "camper": Profile(
        body="2 8 2, 0 15 5, 1.5 27 9, 8 43 10, 22 47.5 12, 90 47.5 9, 98 38 9, 100 16 5, 98 8 2",
        glass="6.5 30 2, 12 42 3, 22 43.3 3, 88 43.3 3, 91.5 30 2",
        pillars=((25, 25), (47, 47), (69, 69)),
        seams=(25, 47, 69),
        lamp="0.5 18.5 2, 0.5 25.5 2, 6.5 25.5 3, 6.5 18.5 3",
        tail_lamp="97 26 0.5, 101 26 0, 101 18 0, 97 18 0.5",
        wheel_radius=9.2,
        roof_paint=True,
    ),
    "beetle": Profile(
        body="3 8 2, 0 13 4, 5 24 9, 27 28 9, 39 43 13, 60 43.5 17, 82 36 16, 96 21 10, 100 12 4, 97 8 2",
        glass="31 28 2, 41 40 7, 60 40.7 13, 76 30 4",
        pillars=((57.5, 57),),
        seams=(30.5, 58.5),
        lamp="4 17.5 2, 4.5 23.5 3, 11 24 3, 11 18 3",
        tail_lamp="91 22 2, 98 22 2, 98 17 2, 92.5 17 2",
        wheel_radius=10,
    ),
    "roadster": Profile(
        body="1.5 6.5 2, 0 12 4, 2 19 6, 34 23.5 8, 40 23.5 3, 50 22.3 4, 66 23.5 4, 97 23 5, 100 14 5, 98 6.5 2",
        glass="35 23 0.5, 46 33.5 1.5, 48.5 33.3 1, 43 23 0.5",
        pillars=((38.4, 50),),
        seams=(36, 63),
        lamp="0 15 0, 1 19 0, 11 20.6 2, 8 17 3",
        tail_lamp="91.5 21.5 1, 101 22 0, 101 18 0, 93 18 2",
        wheel_radius=9.2,
        behind=("55 20 0, 56 30 2, 61 31 2, 63 20 0", "64 21 0, 67 26.5 3, 80 25.5 5, 83 21 0"),
    ),
}

PAINTS = read_colors(
    "d63430 a82236 ee7830 f6ba38 589854 266858 2c9ea0 62aad6 2c66ba "
    "24366e 7c5498 e4848c eceae2 b0b8c2 5c6472 32343e decca8 86543c"
)


@dataclass(frozen=True)
class Backdrop:
    """What stands behind the car; every colour table runs from top to bottom, or from far to near."""

    kind: str  # the skyline
    sky: str
    ground: str
    skyline: str = ""
    disc: str = ""  # the sun or the moon

    def tones_behind_the_car(self) -> tuple[Color, ...]:
        """List the colours that touch the car's outline."""
        return read_colors(self.sky)[1:] + read_colors(self.skyline) + read_colors(self.ground)[:1]


BACKDROPS = (
    Backdrop("hills", "80bee8 e4f2f8", "969aa6 707484", "aacecc 86b692"),
    Backdrop("hills", "5c5c9c fcbe9a", "625870 423e58", "a0769c 705888", "ffe8be"),
    Backdrop("hills", "76c0d6 fceccc", "ceac88 b08a6e", "eec898 deac7c", "fffce8"),
    Backdrop("city", "a0cae8 eef2f0", "9296a2 6c707e", "c6d4de a8bacc"),
    Backdrop("city", "283060 9678a6", "3c3c56 282a40", "62588c 424070", "faf0d6"),
    Backdrop("city", "fac4a0 feeace", "968488 746670", "e8beac cc9e9c", "fffae2"),
    Backdrop("trees", "b0d6e6 f0f6ec", "94969c 70727c", "a4cab0 70a488"),
    Backdrop("sea", "6ebae4 e8f6fa", "ded0b2 beae92", "4896bc 7ec0d0", "fffae0"),
    Backdrop("studio", "eeece8 dedcd8", "ceccca b8b6b6"),
    Backdrop("studio", "b0d8d4 c4e4de", "96c2be 82b0ae"),
    Backdrop("studio", "fad6be fce2ce", "eabea4 d8aa92"),
    Backdrop("studio", "cecce8 dcdaf0", "b4b2d4 a09ec4"),
    Backdrop("studio", "4a546c 68748c", "424a60 32384c"),
)

# Spokes, their width as a share of the gap to the next one, radius of the hub.
RIMS = ((5, 0.5, 0.2), (6, 0.38, 0.18), (10, 0.5, 0.22), (4, 0.6, 0.26), (0, 1.0, 0.34))
RIM_COLORS = read_colors("d8dce2 b4bac4 f0eee6 787e8a")


@dataclass(frozen=True)
class Scene:
    """Everything an image shows; lengths are shares of its width, or of 1.5 heights where that is less."""

    profile: Profile
    stretch: float  # height of the car's body, 1 is as drawn in its profile
    paint: Color
    roof: Color
    rim: tuple[int, float, float]
    rim_color: Color
    wheel_turn: float
    backdrop: Backdrop
    horizon: float  # above the line on which the car stands
    skyline: tuple[float, ...]
    disc: tuple[float, float]
    clouds: tuple[tuple[float, float, float], ...]
    length: float
    offset: tuple[float, float]

    def outline(self, table: str) -> Shape:
        """Round a corner table of the profile and stretch it to the car's height."""
        return rounded(read_points(table) * (1, self.stretch, 1))


def make_scene(seed: int) -> Scene:
    """Pick a scene, a pure function of the seed, any integer from 0."""
    rng = np.random.default_rng(seed)
    profile = list(PROFILES.values())[rng.integers(len(PROFILES))]
    paint = PAINTS[rng.integers(len(PAINTS))]
    # A car of the colour of the air around it has no outline, which looks poor and teaches little.
    apart = [one for one in BACKDROPS if all(math.dist(paint, tone) > 64 for tone in one.tones_behind_the_car())]
    backdrop = apart[rng.integers(len(apart))]
    roofs = (paint, paint, mix(paint, NIGHT, 0.75), (244, 242, 236))
    roof = roofs[rng.integers(len(roofs))]
    length = rng.uniform(0.82, 0.94)
    room = 0.5 - length / 2 - 0.015
    return Scene(
        profile=profile,
        stretch=rng.uniform(1.02, 1.13),
        paint=paint,
        roof=roof if profile.roof_paint else paint,
        rim=RIMS[rng.integers(len(RIMS))],
        rim_color=RIM_COLORS[rng.integers(len(RIM_COLORS))],
        wheel_turn=rng.uniform(0, 2 * math.pi),
        backdrop=backdrop,
        horizon=rng.uniform(0.05, 0.1),
        skyline=tuple(rng.uniform(0, 1, 16)),
        disc=(rng.uniform(-0.36, 0.36), rng.uniform(0.48, 0.56)),
        clouds=tuple(
            (rng.uniform(-0.42, 0.42), rng.uniform(0.46, 0.6), rng.uniform(0.6, 1)) for _ in range(rng.integers(3))
        ),
        length=length,
        offset=(rng.uniform(-room, room), rng.uniform(-0.22, -0.17)),
    )


def skyline(scene: Scene, layer: int, left: float, right: float) -> Shape:
    """Draw the upper edge of a layer of the backdrop, 0 far or 1 near: an open line above the horizon, (points, 2).

    It runs from `left` to `right`; the city's begins and ends with a whole house, so further out.
    """
    kind, shuffle = scene.backdrop.kind, scene.skyline[layer * 8 :]
    if kind == "city":
        width = 0.11 - 0.02 * layer
        first, last = math.floor(left / width), math.ceil(right / width)
        heights = [(0.36 if layer == 0 else 0.22) * (0.45 + 0.55 * shuffle[i % 7]) for i in range(first, last)]
        x = np.repeat(np.arange(first, last + 1) * width, 2)[1:-1]
        return np.stack([x, np.repeat(heights, 2)], axis=1)
    x = np.linspace(left, right, 160)
    phase = 2 * math.pi * shuffle[0]
    if kind == "trees":
        bumps = np.abs(np.sin(x * (13 + 5 * layer) + phase))
        return np.stack([x, 0.2 - 0.07 * layer + 0.07 * bumps + 0.02 * np.sin(5 * x + 9 * shuffle[1])], axis=1)
    if kind == "sea":
        return np.stack([x, np.full_like(x, 0.1 - 0.07 * layer)], axis=1)
    waves = np.sin(x * (6 - layer) + phase) + 0.5 * np.sin(x * (11 + layer) + 9 * shuffle[1])
    return np.stack([x, 0.23 - 0.1 * layer + 0.045 * waves], axis=1)
