"""A pen that draws in the object's own coordinates and fills with patterns.

Local x runs right and y down; an object fills about −1..1 and stands on y = 1.
"""

import math
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True)
class Place:
    """Where local coordinates lie on the canvas: centre and unit in canvas px, angle in radians."""

    x: float
    y: float
    unit: float
    angle: float

    def __call__(self, point: Point) -> Point:
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        x, y = point
        return (
            self.x + self.unit * (cos * x - sin * y),
            self.y + self.unit * (sin * x + cos * y),
        )


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """`share` of the other colour in the one."""
    return tuple(round(a + (b - a) * share) for a, b in zip(one, other, strict=True))


def ellipse(x: float, y: float, rx: float, ry: float, tilt: float = 0.0) -> list[Point]:
    """Outline of an ellipse; tilt in radians."""
    cos, sin = math.cos(tilt), math.sin(tilt)
    turns = [2 * math.pi * i / 40 for i in range(40)]
    around = [(rx * math.cos(t), ry * math.sin(t)) for t in turns]
    return [(x + cos * u - sin * v, y + sin * u + cos * v) for u, v in around]


def box(x0: float, y0: float, x1: float, y1: float, radius: float = 0.0) -> list[Point]:
    """Outline of a rectangle with round corners."""
    corners = [(x1, y1, 0), (x0, y1, 1), (x0, y0, 2), (x1, y0, 3)]
    points = []
    for cx, cy, quarter in corners:
        inner_x = cx - radius if cx == x1 else cx + radius
        inner_y = cy - radius if cy == y1 else cy + radius
        for i in range(6):
            t = math.pi / 2 * (quarter + i / 5)
            points.append((inner_x + radius * math.cos(t), inner_y + radius * math.sin(t)))
    return points


def smooth(points: list[Point], closed: bool = True) -> list[Point]:
    """A curve through the points (Catmull-Rom)."""
    count = len(points)
    found = []
    for i in range(count if closed else count - 1):
        if closed:
            p = [points[(i + k - 1) % count] for k in range(4)]
        else:
            p = [points[min(max(i + k - 1, 0), count - 1)] for k in range(4)]
        for step in range(8):
            t = step / 8
            found.append(tuple(_spline(*(q[axis] for q in p), t) for axis in (0, 1)))
    return found if closed else [*found, points[-1]]


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    return 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )


class Pen:
    """Draws filled and outlined shapes on a canvas; line: width of outlines in local units."""

    def __init__(self, canvas: Image.Image, place: Place, ink: Colour, line: float = 0.06):
        self.canvas = canvas
        self.place = place
        self.ink = ink
        self.line = line * place.unit
        self._draw = ImageDraw.Draw(canvas)

    def fill(self, outline: list[Point], paint: "Colour | Image.Image", edge: bool = True) -> None:
        """A shape in one colour or, through a mask, in a painted canvas."""
        points = [self.place(p) for p in outline]
        if isinstance(paint, tuple):
            self._draw.polygon(points, fill=paint)
        else:
            mask = Image.new("L", self.canvas.size)
            ImageDraw.Draw(mask).polygon(points, fill=255)
            self.canvas.paste(paint, mask=mask)
        if edge:
            self._trace([*points, points[0], points[1]], self.ink, self.line)

    def stroke(self, points: list[Point], width: float, colour: Colour, edge: bool = True) -> None:
        """An open line of that width in local units, with round ends."""
        placed = [self.place(p) for p in points]
        if edge:
            self._trace(placed, self.ink, width * self.place.unit + 2 * self.line * 0.9)
        self._trace(placed, colour, width * self.place.unit)

    def glint(self, outline: list[Point], strength: float = 0.4) -> None:
        """A soft reflection of light."""
        mask = Image.new("L", self.canvas.size)
        points = [self.place(p) for p in outline]
        ImageDraw.Draw(mask).polygon(points, fill=round(255 * strength))
        self.canvas.paste((255, 255, 255), mask=mask)

    def _trace(self, points: list[Point], colour: Colour, width: float) -> None:
        self._draw.line(points, fill=colour, width=max(1, round(width)), joint="curve")
        radius = width / 2
        for x, y in (points[0], points[-1]):
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


_SHADES: dict[tuple[int, int], Image.Image] = {}


def shaded(paint: Image.Image, place: Place) -> Image.Image:
    """The paint lit from the upper left of the object."""
    side = round(4 * place.unit)
    size = paint.size
    if (side, size[0]) not in _SHADES:
        if len(_SHADES) > 64:
            _SHADES.clear()
        ramp = Image.linear_gradient("L").rotate(-35, Image.Resampling.BILINEAR, fillcolor=128)
        ramp = ramp.crop((44, 44, 212, 212)).resize((side, side), Image.Resampling.BILINEAR)
        _SHADES[side, size[0]] = ramp.point(lambda v: 255 - round(0.42 * max(0, v - 70)))
    shade = Image.new("L", size, 255)
    shade.paste(_SHADES[side, size[0]], (round(place.x - side / 2), round(place.y - side / 2)))
    return ImageChops.multiply(paint, Image.merge("RGB", (shade, shade, shade)))
