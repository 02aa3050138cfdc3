"""The twelve places, painted on a square canvas: large shapes and smooth gradients."""

import math
import random
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

from PIL import Image, ImageDraw

from .pen import Colour


class Place:
    """A canvas in units of its side (0..1, y down) and the scene's own small choices."""

    def __init__(self, side: int, rng: random.Random):
        self.side = side
        self.rng = rng
        self.canvas = Image.new("RGB", (side, side))
        self._draw = ImageDraw.Draw(self.canvas)

    def gradient(self, top: Colour, bottom: Colour, y0: float = 0.0, y1: float = 1.0) -> None:
        upper, lower = round(y0 * self.side), round(y1 * self.side)
        self.canvas.paste(_ramp(self.side, lower - upper, top, bottom), (0, upper))

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        self._draw.polygon([(x * self.side, y * self.side) for x, y in points], fill=colour)

    def disc(self, x: float, y: float, rx: float, colour: Colour, ry: float | None = None) -> None:
        x, y, rx, ry = (v * self.side for v in (x, y, rx, rx if ry is None else ry))
        self._draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=colour)

    def ring(self, x: float, y: float, r: float, colour: Colour, width: float) -> None:
        x, y, r = (v * self.side for v in (x, y, r))
        width = max(1, round(width * self.side))
        self._draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=width)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        self._draw.rectangle([v * self.side for v in (x0, y0, x1, y1)], fill=colour)

    def line(self, points: list[tuple[float, float]], width: float, colour: Colour) -> None:
        placed = [(x * self.side, y * self.side) for x, y in points]
        width = max(1, round(width * self.side))
        self._draw.line(placed, fill=colour, width=width, joint="curve")

    def vary(self, low: float, high: float) -> float:
        return self.rng.uniform(low, high)


@lru_cache(maxsize=64)
def _ramp(side: int, height: int, top: Colour, bottom: Colour) -> Image.Image:
    column = Image.linear_gradient("L").resize((1, height), Image.Resampling.BILINEAR)
    return Image.merge(
        "RGB",
        [
            column.point(lambda v, a=a, b=b: round(a + (b - a) * v / 255))
            for a, b in zip(top, bottom, strict=True)
        ],
    ).resize((side, height))


def _cloud(place: Place, x: float, y: float, r: float) -> None:
    for dx, dy, k in ((-0.9, 0.15, 0.6), (0.0, -0.1, 0.85), (0.9, 0.15, 0.6)):
        place.disc(x + dx * r, y + dy * r, k * r, (255, 255, 255), 0.6 * k * r)
    place.disc(x, y + 0.22 * r, 1.4 * r, (255, 255, 255), 0.32 * r)


def _hill(place: Place, left: float, right: float, top: float, base: float, colour: Colour) -> None:
    points = [(left, base)]
    for i in range(21):
        t = i / 20
        points.append((left + (right - left) * t, base - (base - top) * math.sin(math.pi * t)))
    place.polygon([*points, (right, base)], colour)


def _beach(place: Place) -> None:
    place.gradient((96, 176, 240), (196, 232, 250), 0, 0.46)
    place.gradient((24, 112, 186), (60, 172, 208), 0.46, 0.64)
    place.gradient((246, 222, 160), (222, 186, 120), 0.64, 1)
    shore = [(i / 20, 0.645 + 0.012 * math.sin(i * 1.1)) for i in range(21)]
    place.line(shore, 0.022, (240, 248, 250))
    place.disc(place.vary(0.1, 0.9), place.vary(0.1, 0.18), 0.075, (255, 240, 160))


def _snow(place: Place) -> None:
    place.gradient((150, 180, 212), (212, 226, 240), 0, 0.6)
    for _ in range(4):
        x, h = place.vary(0, 1), place.vary(0.2, 0.3)
        for k in range(3):
            top, half = 0.6 - h + k * h / 4, h * (0.16 + 0.1 * k)
            points = [(x, top), (x - half, top + h / 2.2), (x + half, top + h / 2.2)]
            place.polygon(points, (58, 110, 104))
    place.gradient((232, 240, 250), (250, 252, 255), 0.58, 1)
    _hill(place, -0.3, 0.7, 0.52, 0.62, (234, 242, 252))
    for _ in range(14):
        place.disc(place.vary(0, 1), place.vary(0, 0.9), 0.014, (255, 255, 255))


def _forest(place: Place) -> None:
    place.gradient((38, 92, 62), (64, 122, 74), 0, 0.68)
    for i in range(5):
        x = 0.02 + 0.24 * i + place.vary(-0.05, 0.05)
        half = place.vary(0.028, 0.045)
        place.box(x - half, 0, x + half, 0.7, (98, 68, 46))
    for i in range(6):
        x = 0.2 * i + place.vary(-0.05, 0.05)
        place.disc(x, place.vary(0.02, 0.08), 0.17, (30, 108, 52), 0.13)
    place.gradient((76, 102, 48), (54, 74, 38), 0.68, 1)


def _city(place: Place) -> None:
    place.gradient((16, 20, 56), (62, 46, 98), 0, 0.66)
    place.disc(place.vary(0.15, 0.85), 0.13, 0.065, (246, 240, 206))
    x = -0.02
    while x < 1:
        width, top = place.vary(0.15, 0.22), place.vary(0.22, 0.44)
        place.box(x, top, x + width, 0.68, (26, 28, 48))
        for row in range(5):
            for column in range(2):
                wx, wy = x + width * (0.18 + 0.4 * column), top + 0.05 + 0.085 * row
                if wy < 0.62 and place.rng.random() < 0.65:
                    place.box(wx, wy, wx + 0.038, wy + 0.045, (250, 212, 104))
        x += width + 0.012
    place.gradient((60, 60, 74), (40, 40, 52), 0.68, 1)


def _bricks(place: Place) -> None:
    place.gradient((218, 196, 180), (206, 182, 166))
    shift = place.vary(0, 1)
    height, width = 0.115, 0.27
    for row in range(-1, 8):
        for column in range(-1, 5):
            x = (column + 0.5 * (row % 2) + shift % 1) * width
            tone = place.rng.choice(((178, 74, 62), (186, 82, 68), (168, 68, 58)))
            place.box(x, row * height, x + width - 0.024, (row + 1) * height - 0.024, tone)
    place.gradient((142, 132, 128), (118, 110, 108), 0.84, 1)


def _grass(place: Place) -> None:
    place.gradient((92, 168, 240), (206, 234, 252), 0, 0.6)
    for _ in range(2):
        _cloud(place, place.vary(0.1, 0.9), place.vary(0.1, 0.26), 0.11)
    _hill(place, -0.2, 0.7, 0.5, 0.64, (122, 192, 86))
    _hill(place, 0.4, 1.3, 0.47, 0.64, (106, 180, 78))
    place.gradient((96, 184, 72), (52, 138, 52), 0.6, 1)
    for _ in range(7):
        x, y = place.vary(0, 1), place.vary(0.7, 0.98)
        for lean in (-0.025, 0, 0.025):
            place.line([(x, y), (x + lean, y - 0.05)], 0.012, (40, 118, 44))


def _table(place: Place) -> None:
    place.gradient((238, 226, 204), (222, 204, 178), 0, 0.6)
    place.gradient((176, 118, 70), (138, 88, 50), 0.58, 1)
    place.box(0, 0.575, 1, 0.6, (120, 74, 42))
    for y in (0.7, 0.84):
        place.box(0, y, 1, y + 0.012, (116, 72, 40))
    shift = place.vary(0, 0.3)
    for x, y0, y1 in ((0.1, 0.6, 0.7), (0.55, 0.7, 0.84), (0.3, 0.84, 1.0)):
        place.box(x + shift, y0, x + shift + 0.012, y1, (116, 72, 40))


def _fabric(place: Place) -> None:
    place.gradient((246, 170, 200), (236, 146, 182))
    shift = place.vary(0, 0.25)
    for i in range(-3, 6):
        x = 0.25 * i + shift
        dark = [(x, 0), (x + 0.09, 0), (x + 0.49, 1), (x + 0.4, 1)]
        place.polygon(dark, (224, 126, 168))
        light = [(x + 0.13, 0), (x + 0.18, 0), (x + 0.58, 1), (x + 0.53, 1)]
        place.polygon(light, (252, 198, 220))


def _desert(place: Place) -> None:
    place.gradient((250, 180, 96), (254, 222, 158), 0, 0.62)
    place.disc(place.vary(0.12, 0.88), place.vary(0.12, 0.22), 0.085, (255, 246, 200))
    _hill(place, -0.3, 0.65, 0.46, 0.66, (222, 150, 84))
    _hill(place, 0.35, 1.35, 0.42, 0.66, (208, 134, 74))
    place.gradient((230, 168, 98), (200, 130, 70), 0.64, 1)
    x = place.rng.choice((0.08, 0.92))
    green = (74, 132, 80)
    place.line([(x, 0.7), (x, 0.44)], 0.05, green)
    place.line([(x, 0.6), (x - 0.07, 0.58), (x - 0.07, 0.5)], 0.034, green)
    place.line([(x, 0.56), (x + 0.07, 0.54), (x + 0.07, 0.47)], 0.034, green)


def _water(place: Place) -> None:
    place.gradient((64, 190, 222), (12, 74, 146), 0, 0.84)
    for x in (place.vary(0.0, 0.3), place.vary(0.5, 0.8)):
        place.polygon([(x, 0), (x + 0.1, 0), (x - 0.02, 0.84), (x - 0.2, 0.84)], (74, 182, 216))
    place.gradient((206, 190, 140), (176, 154, 108), 0.82, 1)
    for x in (place.vary(0.02, 0.14), place.vary(0.86, 0.98)):
        wave = [(x + 0.03 * math.sin(i * 1.3), 0.92 - 0.05 * i) for i in range(9)]
        place.line(wave, 0.04, (36, 138, 92))
    for _ in range(6):
        place.ring(place.vary(0.03, 0.97), place.vary(0.05, 0.75), 0.03, (212, 242, 250), 0.011)


def _space(place: Place) -> None:
    place.gradient((12, 10, 34), (42, 20, 66))
    for _ in range(26):
        bright = place.rng.choice((0.008, 0.008, 0.013))
        place.disc(place.vary(0, 1), place.vary(0, 1), bright, (250, 248, 230))
    x, y = place.rng.choice((0.16, 0.84)), place.vary(0.12, 0.24)
    place.disc(x, y, 0.1, (226, 140, 104))
    place.disc(x - 0.03, y - 0.03, 0.05, (240, 170, 132))
    place.line([(x - 0.17, y + 0.04), (x + 0.17, y - 0.04)], 0.022, (250, 214, 160))


def _tiles(place: Place) -> None:
    place.gradient((198, 226, 222), (222, 238, 234), 0, 0.54)
    shift = place.vary(-0.5, 0.5)
    rows = [0.54, 0.61, 0.71, 0.84, 1.01]
    for r, (y0, y1) in enumerate(pairwise(rows)):
        for c in range(-8, 9):
            colour = (88, 106, 120) if (r + c) % 2 else (238, 240, 240)
            k0, k1 = 0.16 + 1.1 * (y0 - 0.54), 0.16 + 1.1 * (y1 - 0.54)
            left, right = c + shift - 0.5, c + shift + 0.5
            place.polygon(
                [(0.5 + left * k0, y0), (0.5 + right * k0, y0), (0.5 + right * k1, y1),
                 (0.5 + left * k1, y1)], colour,
            )  # fmt: skip
    place.box(0, 0.525, 1, 0.545, (150, 178, 176))


BACKGROUNDS: dict[str, Callable[[Place], None]] = {
    "on the beach": _beach,
    "in the snow": _snow,
    "in a forest": _forest,
    "in a city at night": _city,
    "in front of a brick wall": _bricks,
    "on the grass": _grass,
    "on a wooden table": _table,
    "on pink fabric": _fabric,
    "in a desert": _desert,
    "under water": _water,
    "in space": _space,
    "on a tiled floor": _tiles,
}
DARK = ("in a city at night", "in space")


def paint(background: str, side: int, rng: random.Random) -> Image.Image:
    """The place as an RGB canvas of that side."""
    place = Place(side, rng)
    BACKGROUNDS[background](place)
    return place.canvas
