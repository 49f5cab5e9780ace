"""Toy cars: the embedded data set, small flat-shaded side views of cars drawn from a seed.

A seed picks a `Scene`; the painters below turn it into pixels at any size.
"""

import math

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from ddpm_cars.toy_cars.designs import (
    GLASS,
    LAMP,
    NIGHT,
    PLASTIC,
    RUBBER,
    TAIL_LAMP,
    WHEELS,
    WHITE,
    Color,
    Scene,
    Shape,
    make_scene,
    mix,
    read_colors,
    read_points,
    skyline,
)

RENDERER_VERSION = 1
"""Raise it when the pixels change."""
MIN_SIDE = 8
"""The shortest side of an image in pixels."""
_CIRCLE: Shape = np.array([(math.cos(k * math.pi / 24), math.sin(k * math.pi / 24)) for k in range(48)])


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> Shape:
    """Outline an ellipse around `(x, y)`."""
    return _CIRCLE * (radius_x, radius_y) + (x, y)


def box(left: float, bottom: float, right: float, top: float) -> Shape:
    """Outline a rectangle."""
    return np.array([(left, bottom), (left, top), (right, top), (right, bottom)])


def _band(line: Shape, depth: float) -> Shape:
    """Outline the strip of height `depth` that hangs below an open line."""
    return np.concatenate([line, line[::-1] - (0, depth)])


class _Canvas:
    """An image with its own axes: x to the right, y upwards, `unit` pixels to one step."""

    def __init__(self, image: Image.Image, unit: float, origin: tuple[float, float]) -> None:
        self.image, self.unit, self.origin = image, unit, origin
        self.draw = ImageDraw.Draw(image)

    def at(self, x: float, y: float, unit: float) -> "_Canvas":
        """Show the same image with the origin moved to `(x, y)` and one step being `unit` present ones."""
        left, top = self.origin
        return _Canvas(self.image, self.unit * unit, (left + x * self.unit, top - y * self.unit))

    def bounds(self) -> tuple[float, float, float, float]:
        """Find left, bottom, right and top of the image."""
        (left, top), (width, height) = self.origin, self.image.size
        return -left / self.unit, (top - height) / self.unit, (width - left) / self.unit, top / self.unit

    def mask(self, shape: Shape) -> Image.Image:
        """Cut an image-sized stencil of a shape, to clip others with."""
        stencil = Image.new("L", self.image.size)
        ImageDraw.Draw(stencil).polygon(self._pixels(shape).ravel().tolist(), fill=255)
        return stencil

    def fill(self, shape: Shape, *colors: Color, alpha: float = 1.0, clip: Image.Image | None = None) -> None:
        """Paint a shape in one colour, or in a gradient through several from its top to its bottom."""
        pixels = self._pixels(shape)
        if len(colors) == 1 and alpha == 1 and clip is None:
            self.draw.polygon(pixels.ravel().tolist(), fill=colors[0])
            return
        (left, top), (right, bottom) = pixels.min(0).tolist(), pixels.max(0).tolist()
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(right + 1, self.image.width), min(bottom + 1, self.image.height)
        if x0 >= x1 or y0 >= y1:
            return
        stencil = Image.new("L", (x1 - x0, y1 - y0))
        ImageDraw.Draw(stencil).polygon((pixels - (x0, y0)).ravel().tolist(), fill=round(255 * alpha))
        if clip is not None:
            stencil = ImageChops.multiply(stencil, clip.crop((x0, y0, x1, y1)))
        if len(colors) == 1:
            self.image.paste(colors[0], (x0, y0, x1, y1), stencil)
            return
        rows = np.arange(y0 - top, y1 - top) * ((len(colors) - 1) / max(bottom - top, 1))
        column = np.empty((len(rows), 1, 3))
        for channel, levels in enumerate(zip(*colors, strict=True)):
            column[:, 0, channel] = np.interp(rows, range(len(colors)), levels)
        gradient = Image.fromarray(np.rint(column).astype(np.uint8))
        self.image.paste(gradient.resize(stencil.size, Image.Resampling.NEAREST), (x0, y0), stencil)

    def _pixels(self, shape: Shape) -> np.ndarray:
        return np.rint(np.asarray(self.origin) + shape * (self.unit, -self.unit)).astype(int)


def _paint_backdrop(canvas: _Canvas, scene: Scene) -> None:
    """Paint sky, disc, clouds, two skylines and the ground; here the origin is where the car stands."""
    backdrop = scene.backdrop
    left, bottom, right, top = canvas.bounds()
    sky, ground = read_colors(backdrop.sky), read_colors(backdrop.ground)
    canvas.fill(box(left, scene.horizon, right, top), *sky)
    if backdrop.disc:
        canvas.fill(ellipse(*scene.disc, 0.12, 0.12), read_colors(backdrop.disc)[0], alpha=0.3)
        canvas.fill(ellipse(*scene.disc, 0.075, 0.075), read_colors(backdrop.disc)[0])
    if backdrop.kind == "studio":
        canvas.fill(ellipse(0, 0.2, 0.62, 0.5), WHITE, alpha=0.1)
        canvas.fill(ellipse(0, 0.2, 0.42, 0.34), WHITE, alpha=0.1)
    else:
        for x, y, size in scene.clouds:
            for dx, radius in ((-0.06, 0.028), (0, 0.045), (0.065, 0.03)):
                puff = ellipse(x + dx * size, y, 1.5 * radius * size, radius * size)
                puff[:, 1] = np.maximum(puff[:, 1], y - 0.012 * size)
                canvas.fill(puff, mix(WHITE, sky[1], 0.35))
    for layer, color in enumerate(read_colors(backdrop.skyline)):
        edge = skyline(scene, layer, left, right)
        edge[:, 1] += scene.horizon
        canvas.fill(np.concatenate([edge, [(right, 0), (left, 0)]]), color)
    canvas.fill(box(left, bottom, right, scene.horizon), *ground)
    if backdrop.kind != "studio":
        canvas.fill(box(left, scene.horizon - 0.014, right, scene.horizon), mix(ground[0], WHITE, 0.35))
        canvas.fill(box(left, -0.155, right, -0.135), mix(ground[1], WHITE, 0.45))


def _paint_shadow(car: _Canvas, color: Color) -> None:
    # Many faint ellipses inside one another fade out softly, without a blur over the whole image.
    for spread in (1.04, 1.01, 0.98, 0.94, 0.9):
        car.fill(ellipse(50, -0.6, 50 * spread, 4.6 * spread**4), color, alpha=0.24)


def _paint_body(car: _Canvas, scene: Scene) -> Image.Image:
    """Paint the car without its glass and wheels; return the stencil of the body."""
    profile, paint = scene.profile, scene.paint
    shine, shade = mix(paint, WHITE, 0.28), mix(paint, NIGHT, 0.32)
    for part in profile.behind:
        car.fill(scene.outline(part), PLASTIC)
    car.fill(box(12, 4.5, 88, 12), NIGHT)
    outline = scene.outline(profile.body)
    body = car.mask(outline)
    car.fill(outline, shine, paint, paint, shade)
    belt = read_points(profile.glass)[0, 1] * scene.stretch
    if scene.roof != paint:
        car.fill(box(0, belt + 1, 100, 60), mix(scene.roof, WHITE, 0.2), scene.roof, clip=body)
    # A crease along the flank catches the light; what lies under it is in the shade.
    crease = np.array([(2, 0.72), (20, 0.77), (45, 0.8), (70, 0.81), (98, 0.79)]) * (1, belt)
    car.fill(_band(crease, 1.3), mix(paint, WHITE, 0.5), clip=body)
    car.fill(_band(crease - (0, 1.3), 30), shade, alpha=0.28, clip=body)
    car.fill(box(0, 0, 100, 10.5), PLASTIC if profile.cladding else mix(paint, NIGHT, 0.62), clip=body)
    for seam in profile.seams:
        car.fill(box(seam - 0.35, 10.5, seam + 0.35, belt + 1), mix(paint, NIGHT, 0.55), clip=body)
    for rear in profile.seams[1:]:
        car.fill(box(rear - 6, belt - 4.4, rear - 2, belt - 3.2), mix(paint, NIGHT, 0.55), clip=body)
    for part in profile.trim:
        car.fill(scene.outline(part), PLASTIC)
    return body


def _paint_glass(car: _Canvas, scene: Scene) -> None:
    outline = scene.outline(scene.profile.glass)
    pane = car.mask(outline)
    car.fill(outline, *GLASS)
    bottom, top = outline[:, 1].min(), outline[:, 1].max()
    for x in (38, 66):
        glint = np.array([(x, bottom), (x + 7, top), (x + 13, top), (x + 6, bottom)])
        car.fill(glint, WHITE, alpha=0.22, clip=pane)
    for foot, head in scene.profile.pillars:
        bar = np.array([(foot - 1, bottom), (head - 1, top), (head + 1, top), (foot + 1, bottom)])
        car.fill(bar, mix(scene.roof, NIGHT, 0.25), clip=pane)
    # The mirror sits in the window's front corner.
    x, y = read_points(scene.profile.glass)[0, :2] * (1, scene.stretch) + (3.5, 1.2)
    car.fill(ellipse(x, y, 2.1, 1.5), mix(scene.paint, NIGHT, 0.35))
    car.fill(ellipse(x - 0.3, y + 0.4, 1.6, 0.9), mix(scene.paint, WHITE, 0.2))


def _paint_lamps(car: _Canvas, scene: Scene, body: Image.Image) -> None:
    for table, color in ((scene.profile.lamp, LAMP), (scene.profile.tail_lamp, TAIL_LAMP)):
        lamp = scene.outline(table)
        car.fill(lamp - (0, 0.8), mix(scene.paint, NIGHT, 0.5), clip=body)
        car.fill(lamp, mix(color, WHITE, 0.3), color, clip=body)


def _paint_wheel(car: _Canvas, scene: Scene, x: float, body: Image.Image) -> None:
    radius = scene.profile.wheel_radius
    wheel = car.at(x, radius, radius)
    if scene.profile.cladding:
        wheel.fill(ellipse(0, 0, 1.34, 1.34), PLASTIC, clip=body)
    else:
        wheel.fill(ellipse(0, 0, 1.25, 1.25), mix(scene.paint, WHITE, 0.3), clip=body)
    wheel.fill(ellipse(0, 0, 1.16, 1.16), NIGHT, clip=body)
    wheel.fill(ellipse(0, 0, 1, 1), RUBBER)
    rim, dark = scene.rim_color, mix(scene.rim_color, NIGHT, 0.72)
    spokes, width, hub = scene.rim
    wheel.fill(ellipse(0, 0, 0.7, 0.7), mix(rim, WHITE, 0.3), mix(rim, NIGHT, 0.2))
    for spoke in range(spokes):
        half = math.pi / spokes
        angle = scene.wheel_turn + 2 * half * spoke + half * (1 - width) * np.array([-1, -0.5, 0, 0.5, 1])
        arc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        wheel.fill(np.concatenate([0.6 * arc, 0.3 * arc[::-1]]), dark)
    wheel.fill(ellipse(0, 0, hub, hub), mix(rim, NIGHT, 0.35))
    wheel.fill(ellipse(0, 0, hub * 0.6, hub * 0.6), mix(rim, WHITE, 0.3))


def draw_car(seed: int, height: int = 64, width: int | None = None) -> Image.Image:
    """Draw one car; a pure function of its arguments, the same car for a seed at every size.

    Args:
        seed: Picks the scene, any integer from 0.
        height: Height of the image in pixels, from 8.
        width: Width of the image in pixels, from 8; None makes the image square.

    Returns:
        An RGB image of `width` by `height` pixels.

    Raises:
        ValueError: If `seed` is negative, or a side is shorter than 8 pixels.
    """
    width = height if width is None else width
    for name, side in (("height", height), ("width", width)):
        if side < MIN_SIDE:
            raise ValueError(f"{name} is {side}; draw_car needs at least {MIN_SIDE}")
    if seed < 0:
        raise ValueError(f"seed is {seed}; draw_car needs a seed of at least 0")
    scene = make_scene(seed)
    # Shapes are drawn with hard edges on an image several times as large, whose averages make soft edges.
    factor = max(4, math.ceil(256 / min(height, width)))
    image = Image.new("RGB", (width * factor, height * factor))
    unit = min(width, 1.5 * height) * factor
    x, y = scene.offset
    ground = _Canvas(image, unit, (image.width / 2, image.height / 2)).at(0, y, 1)
    _paint_backdrop(ground, scene)
    car = ground.at(x - scene.length / 2, 0, scene.length / 100)
    _paint_shadow(car, mix(read_colors(scene.backdrop.ground)[1], NIGHT, 0.8))
    body = _paint_body(car, scene)
    _paint_lamps(car, scene, body)
    _paint_glass(car, scene)
    for x_wheel in WHEELS:
        _paint_wheel(car, scene, x_wheel, body)
    return image.reduce(factor)
