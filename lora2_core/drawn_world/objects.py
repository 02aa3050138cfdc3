"""The ten kinds of object, one function each. Parts that a subject may recolour are named."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from .look import DARK, LIGHT, Look
from .pen import Pen, Point, box, ellipse, smooth


@dataclass(frozen=True)
class Kind:
    """draw: paints the object. Anchors for what it wears, in local coordinates.

    top: where a hat sits. neck: centre and half width of a scarf. eyes: centre and half width of
    glasses. side: where a string is tied. emblem: centre and radius of a sign on the body.
    """

    draw: Callable[[Pen, Look], None]
    parts: tuple[str, ...]
    top: Point
    neck: tuple[float, float, float]
    eyes: tuple[float, float, float]
    side: Point
    emblem: tuple[float, float, float]


def _arc(x: float, y: float, rx: float, ry: float, start: float, stop: float) -> list[Point]:
    """Part of an ellipse, degrees clockwise from the right."""
    turns = [math.radians(start + (stop - start) * i / 24) for i in range(25)]
    return [(x + rx * math.cos(t), y + ry * math.sin(t)) for t in turns]


def _eye(pen: Pen, x: float, y: float, radius: float, white=LIGHT) -> None:
    pen.fill(ellipse(x, y, radius, radius), white)
    pen.fill(ellipse(x, y, radius * 0.5, radius * 0.5), DARK, edge=False)
    pen.fill(
        ellipse(x - radius * 0.2, y - radius * 0.22, radius * 0.18, radius * 0.18), LIGHT, False
    )


def _teapot(pen: Pen, look: Look) -> None:
    handle = _arc(-0.6, 0.2, 0.42, 0.38, 95, 265)
    pen.stroke(handle, 0.13, look.part("handle", look.darker()))
    spout = [(0.4, 0.5), (0.62, 0.2), (0.72, -0.12), (0.98, -0.3), (1.06, -0.16), (0.95, 0.2),
             (0.72, 0.55), (0.45, 0.75)]  # fmt: skip
    pen.fill(smooth(spout), look.part("spout", look.body))
    pen.fill(ellipse(0, 0.9, 0.4, 0.1), look.part("foot", look.darker()))
    pen.fill(ellipse(0, 0.3, 0.66, 0.6), look.body)
    pen.glint(ellipse(-0.3, 0.06, 0.12, 0.2, 0.5))
    pen.fill(smooth([(-0.42, -0.22), (-0.28, -0.42), (0, -0.5), (0.28, -0.42), (0.42, -0.22),
                     (0, -0.16)]), look.part("lid", look.darker(0.15)))  # fmt: skip
    pen.fill(ellipse(0, -0.58, 0.12, 0.12), look.part("knob", look.darker()))


def _boot(pen: Pen, look: Look) -> None:
    leather = [(-0.42, -0.8), (0.22, -0.8), (0.22, -0.2), (0.3, 0.12), (0.62, 0.28), (0.9, 0.44),
               (0.97, 0.72), (0.9, 0.8), (-0.36, 0.8), (-0.46, 0.7), (-0.44, 0.0)]  # fmt: skip
    pen.fill(leather, look.body)
    pen.fill(box(-0.52, 0.74, 1.0, 0.98, 0.07), look.part("sole", DARK))
    pen.fill(box(-0.5, -1.0, 0.3, -0.7, 0.1), look.part("cuff", look.darker()))
    for y in (-0.45, -0.18, 0.09):
        pen.stroke([(-0.08, y), (0.26, y + 0.06)], 0.09, look.part("laces", LIGHT))
    pen.glint(ellipse(0.62, 0.48, 0.17, 0.06, 0.5))


def _robot(pen: Pen, look: Look) -> None:
    metal = look.part("legs", look.darker())
    for x in (-0.24, 0.24):
        pen.fill(box(x - 0.13, 0.55, x + 0.13, 0.98, 0.05), metal)
    for side in (-1, 1):
        x0, x1 = sorted((side * 0.5, side * 0.76))
        pen.fill(box(x0, 0.02, x1, 0.56, 0.1), look.part("arms", look.darker()))
    pen.fill(box(-0.5, -0.08, 0.5, 0.68, 0.1), look.body)
    pen.stroke([(0, -0.75), (0, -0.98)], 0.06, look.part("antenna", look.darker()))
    pen.fill(ellipse(0, -1.0, 0.1, 0.1), look.part("antenna", (226, 70, 60)))
    pen.fill(box(-0.44, -0.78, 0.44, -0.14, 0.12), look.part("head", look.body))
    for x in (-0.19, 0.19):
        _eye(pen, x, -0.5, 0.15, look.part("eyes", LIGHT))
    pen.fill(box(-0.2, -0.3, 0.2, -0.22, 0.04), look.part("mouth", DARK), edge=False)
    pen.glint(box(-0.4, 0.02, -0.28, 0.3, 0.05))


def _cat(pen: Pen, look: Look) -> None:
    tail = smooth([(0.3, 0.85), (0.75, 0.8), (0.9, 0.4), (0.72, 0.1)], closed=False)
    pen.stroke(tail, 0.17, look.part("tail", look.main))
    pen.fill(smooth([(0, -0.1), (0.38, 0.2), (0.52, 0.7), (0.42, 0.97), (-0.42, 0.97),
                     (-0.52, 0.7), (-0.38, 0.2)]), look.body)  # fmt: skip
    pen.fill(ellipse(0, 0.62, 0.22, 0.3), look.part("belly", look.darker(0.12)), edge=False)
    for x in (-0.2, 0.2):
        pen.fill(ellipse(x, 0.92, 0.16, 0.1), look.part("paws", look.main))
    for side in (-1, 1):
        ear = [(side * 0.46, -0.42), (side * 0.5, -1.0), (side * 0.1, -0.7)]
        pen.fill(ear, look.part("ears", look.main))
        pen.fill([(side * 0.4, -0.55), (side * 0.42, -0.82), (side * 0.22, -0.68)],
                 (240, 160, 170), edge=False)  # fmt: skip
    pen.fill(ellipse(0, -0.38, 0.54, 0.44), look.part("head", look.body))
    for x in (-0.23, 0.23):
        _eye(pen, x, -0.42, 0.14, look.part("eyes", (196, 232, 120)))
    pen.fill([(-0.07, -0.24), (0.07, -0.24), (0, -0.16)], (236, 120, 140), edge=False)
    for side in (-1, 1):
        pen.stroke([(side * 0.34, -0.2), (side * 0.68, -0.26)], 0.025, pen.ink, edge=False)
        pen.stroke([(side * 0.34, -0.12), (side * 0.68, -0.1)], 0.025, pen.ink, edge=False)


def _car(pen: Pen, look: Look) -> None:
    cabin = [(-0.52, -0.02), (-0.34, -0.5), (0.3, -0.5), (0.56, -0.02)]
    pen.fill(cabin, look.part("cabin", look.body))
    glass = look.part("windows", (186, 226, 244))
    pen.fill([(-0.38, -0.04), (-0.25, -0.38), (-0.04, -0.38), (-0.04, -0.04)], glass)
    pen.fill([(0.08, -0.04), (0.08, -0.38), (0.24, -0.38), (0.4, -0.04)], glass)
    body = [(-1.0, 0.1), (-0.92, -0.06), (-0.5, -0.08), (0.55, -0.08), (0.92, 0.06), (1.02, 0.2),
            (1.02, 0.56), (-1.0, 0.56)]  # fmt: skip
    pen.fill(body, look.body)
    pen.fill(ellipse(0.92, 0.22, 0.09, 0.09), look.part("lights", (255, 236, 150)))
    pen.stroke([(0.02, 0.0), (0.02, 0.48)], 0.03, pen.ink, edge=False)
    for x in (-0.54, 0.54):
        pen.fill(ellipse(x, 0.62, 0.29, 0.29), look.part("wheels", DARK))
        pen.fill(ellipse(x, 0.62, 0.13, 0.13), look.part("hubs", (206, 206, 212)), edge=False)
    pen.glint(box(-0.88, 0.02, -0.12, 0.09, 0.03))


def _mug(pen: Pen, look: Look) -> None:
    pen.stroke(
        _arc(0.55, 0.12, 0.38, 0.36, -100, 100), 0.16, look.part("handle", look.darker(0.12))
    )
    pen.fill(smooth([(-0.66, -0.62), (-0.62, 0.6), (-0.5, 0.9), (0, 0.98), (0.5, 0.9), (0.62, 0.6),
                     (0.66, -0.62), (0, -0.5)]), look.body)  # fmt: skip
    pen.fill(ellipse(0, -0.66, 0.66, 0.2), look.part("rim", look.darker(0.15)))
    pen.fill(ellipse(0, -0.64, 0.52, 0.13), look.part("drink", (94, 58, 40)), edge=False)
    pen.glint(box(-0.5, -0.3, -0.38, 0.45, 0.06))


def _clock(pen: Pen, look: Look) -> None:
    feet = look.part("feet", look.darker())
    for side in (-1, 1):
        pen.stroke([(side * 0.42, 0.66), (side * 0.58, 0.96)], 0.12, feet)
        bell = ellipse(side * 0.46, -0.66, 0.3, 0.2, side * 0.7)
        pen.fill(bell, look.part("bells", look.darker(0.15)))
    pen.stroke([(0, -0.6), (0, -0.86)], 0.07, feet)
    pen.fill(ellipse(0, -0.9, 0.12, 0.08), feet)
    pen.fill(ellipse(0, 0.1, 0.76, 0.76), look.body)
    pen.fill(ellipse(0, 0.1, 0.48, 0.48), look.part("face", LIGHT))
    hands = look.part("hands", DARK)
    for turn in range(4):
        x, y = math.cos(turn * math.pi / 2), math.sin(turn * math.pi / 2)
        pen.fill(ellipse(0.38 * x, 0.1 + 0.38 * y, 0.045, 0.045), hands, edge=False)
    pen.stroke([(0, 0.1), (0, -0.2)], 0.07, hands, edge=False)
    pen.stroke([(0, 0.1), (0.22, 0.24)], 0.07, hands, edge=False)


def _backpack(pen: Pen, look: Look) -> None:
    pen.stroke(_arc(0, -0.82, 0.2, 0.2, 180, 360), 0.1, look.part("handle", look.darker()))
    for side in (-1, 1):
        x0, x1 = sorted((side * 0.48, side * 0.78))
        pen.fill(box(x0, 0.22, x1, 0.88, 0.12), look.part("sides", look.darker()))
    pen.fill(smooth([(0, -0.92), (0.46, -0.72), (0.62, -0.2), (0.64, 0.7), (0.5, 0.97), (0, 1.0),
                     (-0.5, 0.97), (-0.64, 0.7), (-0.62, -0.2), (-0.46, -0.72)]),
             look.body)  # fmt: skip
    pen.stroke(_arc(0, 0.1, 0.46, 0.5, 200, 340), 0.05, look.part("zip", look.darker(0.45)), False)
    pen.fill(box(-0.42, 0.26, 0.42, 0.82, 0.14), look.part("pocket", look.darker(0.16)))
    pen.stroke([(-0.28, 0.44), (0.28, 0.44)], 0.05, look.part("zip", look.darker(0.45)), False)
    pen.fill(box(-0.06, 0.44, 0.06, 0.6, 0.03), look.part("zip", LIGHT))


def _vase(pen: Pen, look: Look) -> None:
    for x, y, lean in ((-0.34, -0.72, -0.1), (0.32, -0.74, 0.1), (0.0, -0.94, 0.0)):
        pen.stroke([(lean, -0.1), (x, y)], 0.06, look.part("stems", (70, 150, 80)), edge=False)
        petals = look.part("flowers", (242, 122, 160))
        pen.fill(ellipse(x, y, 0.18, 0.17), petals)
        pen.fill(ellipse(x, y, 0.07, 0.07), (255, 222, 110), edge=False)
    pen.fill(smooth([(-0.2, -0.3), (-0.22, -0.12), (-0.52, 0.2), (-0.56, 0.5), (-0.34, 0.92),
                     (0, 0.98), (0.34, 0.92), (0.56, 0.5), (0.52, 0.2), (0.22, -0.12),
                     (0.2, -0.3), (0, -0.32)]), look.body)  # fmt: skip
    pen.fill(ellipse(0, -0.3, 0.28, 0.09), look.part("rim", look.darker(0.2)))
    pen.glint(ellipse(-0.3, 0.36, 0.08, 0.2, 0.2))


def _duck(pen: Pen, look: Look) -> None:
    pen.fill(smooth([(-0.95, 0.0), (-0.6, 0.22), (0.1, 0.16), (0.5, -0.1), (0.72, 0.3),
                     (0.55, 0.8), (0, 0.98), (-0.55, 0.86), (-0.86, 0.45)]), look.body)  # fmt: skip
    beak = look.part("beak", (244, 150, 40))
    pen.fill(smooth([(0.75, -0.5), (1.06, -0.42), (1.08, -0.32), (0.76, -0.26)]), beak)
    pen.fill(ellipse(0.42, -0.42, 0.42, 0.42), look.part("head", look.body))
    _eye(pen, 0.56, -0.52, 0.11, look.part("eyes", LIGHT))
    wing = [(-0.5, 0.36), (-0.05, 0.28), (0.25, 0.42), (0.05, 0.7), (-0.3, 0.72)]
    pen.fill(smooth(wing), look.part("wing", look.darker(0.18)))
    pen.glint(ellipse(0.26, -0.62, 0.1, 0.07, -0.6))


KINDS: dict[str, Kind] = {
    "teapot": Kind(_teapot, ("handle", "spout", "foot", "lid", "knob"), (0, -0.62),
                   (0, -0.1, 0.52), (0, 0.24, 0.4), (-0.9, 0.1), (0, 0.36, 0.28)),
    "boot": Kind(_boot, ("sole", "cuff", "laces"), (-0.1, -0.98), (-0.1, -0.5, 0.4),
                 (-0.1, -0.38, 0.36), (-0.4, -0.9), (0.1, 0.42, 0.24)),
    "robot": Kind(_robot, ("legs", "arms", "antenna", "head", "eyes", "mouth"), (0, -0.78),
                  (0, -0.08, 0.44), (0, -0.5, 0.42), (-0.66, 0.5), (0, 0.3, 0.26)),
    "cat": Kind(_cat, ("tail", "belly", "paws", "ears", "head", "eyes"), (0, -0.76),
                (0, 0.06, 0.4), (0, -0.42, 0.46), (-0.4, 0.6), (0, 0.5, 0.24)),
    "car": Kind(_car, ("cabin", "windows", "lights", "wheels", "hubs"), (0, -0.5),
                (0, -0.02, 0.5), (0.5, 0.12, 0.4), (-0.9, 0.0), (-0.28, 0.24, 0.22)),
    "mug": Kind(_mug, ("handle", "rim", "drink"), (0, -0.72), (0, -0.3, 0.66), (0, 0.04, 0.46),
                (0.88, 0.0), (0, 0.34, 0.3)),
    "clock": Kind(_clock, ("feet", "bells", "face", "hands"), (0, -0.8), (0, 0.74, 0.46),
                  (0, -0.04, 0.44), (-0.7, 0.3), (0, 0.1, 0.3)),
    "backpack": Kind(_backpack, ("handle", "sides", "zip", "pocket"), (0, -0.9), (0, -0.5, 0.54),
                     (0, -0.22, 0.46), (-0.62, 0.3), (0, -0.14, 0.26)),
    "vase": Kind(_vase, ("stems", "flowers", "rim"), (0, -0.98), (0, -0.12, 0.28),
                 (0, 0.3, 0.42), (-0.5, 0.4), (0, 0.46, 0.26)),
    "duck": Kind(_duck, ("beak", "head", "eyes", "wing"), (0.4, -0.8), (0.42, -0.02, 0.38),
                 (0.6, -0.5, 0.36), (-0.8, 0.1), (-0.45, 0.5, 0.2)),
}  # fmt: skip
