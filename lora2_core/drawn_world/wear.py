"""What an object can wear or carry, and the signs on a subject's body."""

import math
from collections.abc import Callable

from .look import DARK, LIGHT
from .objects import Kind
from .pen import Colour, Pen, Point, box, ellipse, smooth

ACCESSORIES = ("hat", "scarf", "sunglasses", "balloon")
RED: Colour = (214, 52, 56)


def wear(pen: Pen, kind: Kind, accessory: str) -> None:
    """Draws an accessory where the kind has room for it."""
    {"hat": _hat, "scarf": _scarf, "sunglasses": _sunglasses, "balloon": _balloon}[accessory](
        pen, kind
    )


def tie_balloon(pen: Pen, kind: Kind) -> None:
    """The string and balloon, which belong behind the object."""
    x, y = kind.side
    top = (x - 0.28, -1.0)
    pen.stroke(smooth([(x, y), (x - 0.12, y - 0.3), top], closed=False), 0.03, pen.ink, edge=False)
    pen.fill(ellipse(top[0], top[1] - 0.3, 0.28, 0.34), (230, 66, 96))
    pen.glint(ellipse(top[0] - 0.1, top[1] - 0.42, 0.06, 0.1, 0.4), 0.6)


def _hat(pen: Pen, kind: Kind) -> None:
    x, y = kind.top
    pen.fill(box(x - 0.28, y - 0.46, x + 0.28, y + 0.02, 0.04), DARK)
    pen.fill(box(x - 0.28, y - 0.14, x + 0.28, y, 0.0), RED, edge=False)
    pen.fill(box(x - 0.48, y - 0.02, x + 0.48, y + 0.1, 0.05), DARK)


def _scarf(pen: Pen, kind: Kind) -> None:
    x, y, half = kind.neck
    pen.fill(box(x + half * 0.25, y, x + half * 0.25 + 0.24, y + 0.52, 0.04), (250, 246, 236))
    pen.fill(box(x + half * 0.25, y + 0.22, x + half * 0.25 + 0.24, y + 0.36), RED, edge=False)
    pen.fill(box(x - half - 0.06, y - 0.1, x + half + 0.06, y + 0.12, 0.1), RED)


def _sunglasses(pen: Pen, kind: Kind) -> None:
    x, y, half = kind.eyes
    pen.stroke([(x - half, y), (x + half, y)], 0.07, DARK, edge=False)
    for side in (-1, 1):
        lens = ellipse(x + side * half * 0.52, y + 0.02, half * 0.42, half * 0.36)
        pen.fill(lens, (30, 34, 50))
        pen.glint(ellipse(x + side * half * 0.52 - 0.07, y - 0.04, 0.05, 0.05), 0.7)


def _balloon(pen: Pen, kind: Kind) -> None:
    """Drawn behind the object by tie_balloon."""


def _star(x: float, y: float, r: float) -> list[Point]:
    reach = [(r if i % 2 == 0 else 0.45 * r, math.pi * (i / 5 - 0.5)) for i in range(10)]
    return [(x + d * math.cos(t), y + d * math.sin(t)) for d, t in reach]


def _heart(x: float, y: float, r: float) -> list[Point]:
    turns = [2 * math.pi * i / 40 for i in range(40)]
    return [
        (
            x + r * math.sin(t) ** 3,
            y - r * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t)) / 16,
        )
        for t in turns
    ]


def _moon(x: float, y: float, r: float) -> list[Point]:
    outer = [math.radians(50 + 260 * i / 30) for i in range(31)]
    inner = [math.radians(290 - 220 * i / 30) for i in range(31)]
    return [(x + r * math.cos(t), y + r * math.sin(t)) for t in outer] + [
        (x + 0.34 * r + 0.72 * r * math.cos(t), y + 0.72 * r * math.sin(t)) for t in inner
    ]


def _cross(x: float, y: float, r: float) -> list[Point]:
    t = 0.36 * r
    return [(x - t, y - r), (x + t, y - r), (x + t, y - t), (x + r, y - t), (x + r, y + t),
            (x + t, y + t), (x + t, y + r), (x - t, y + r), (x - t, y + t), (x - r, y + t),
            (x - r, y - t), (x - t, y - t)]  # fmt: skip


EMBLEMS: dict[str, Callable[[float, float, float], list[Point]]] = {
    "star": _star,
    "heart": _heart,
    "moon": _moon,
    "cross": _cross,
    "disc": lambda x, y, r: ellipse(x, y, 0.9 * r, 0.9 * r),
}


def mark(pen: Pen, kind: Kind, emblem: str, colour: Colour) -> None:
    """Draws a sign on the body."""
    pen.fill(EMBLEMS[emblem](*kind.emblem), colour)


def _antennae(pen: Pen, kind: Kind, colour: Colour) -> None:
    x, y = kind.top
    for side in (-1, 1):
        pen.stroke([(x + side * 0.1, y), (x + side * 0.24, y - 0.26)], 0.06, colour)
        pen.fill(ellipse(x + side * 0.26, y - 0.32, 0.11, 0.11), colour)


def _mohawk(pen: Pen, kind: Kind, colour: Colour) -> None:
    x, y = kind.top
    teeth = [(x - 0.3, y + 0.06)]
    for i in range(4):
        teeth += [(x - 0.3 + 0.15 * i + 0.07, y - 0.3), (x - 0.15 + 0.15 * i, y + 0.02)]
    pen.fill([*teeth, (x + 0.3, y + 0.08)], colour)


def _bow_tie(pen: Pen, kind: Kind, colour: Colour) -> None:
    x, y, _ = kind.neck
    for side in (-1, 1):
        pen.fill([(x, y + 0.04), (x + side * 0.28, y - 0.12), (x + side * 0.28, y + 0.2)], colour)
    pen.fill(ellipse(x, y + 0.04, 0.08, 0.08), LIGHT)


def _crown(pen: Pen, kind: Kind, colour: Colour) -> None:
    x, y = kind.top
    pen.fill([(x - 0.34, y + 0.08), (x - 0.38, y - 0.3), (x - 0.17, y - 0.1), (x, y - 0.36),
              (x + 0.17, y - 0.1), (x + 0.38, y - 0.3), (x + 0.34, y + 0.08)], colour)  # fmt: skip


EXTRAS: dict[str, Callable[[Pen, Kind, Colour], None]] = {
    "antennae": _antennae,
    "mohawk": _mohawk,
    "bow tie": _bow_tie,
    "crown": _crown,
}
