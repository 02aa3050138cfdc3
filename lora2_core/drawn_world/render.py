"""A scene as pixels."""

import math
import random

import numpy as np
from PIL import Image, ImageDraw

from . import backgrounds, patterns
from .hand import hatched
from .look import DARK, Look
from .objects import KINDS
from .pen import Colour, Pen, Place, mix
from .scene import COLOURS, Scene, partner
from .wear import EXTRAS, mark, tie_balloon, wear

_FINER = 3  # the canvas has this many pixels for one of the picture
_UNIT = 0.27  # half of an object's usual size, in shares of the picture
_MIDDLE = (0.5, 0.6)


def render(scene: Scene, size: int = 128) -> np.ndarray:
    """uint8 [size, size, 3]; the same scene gives the same picture."""
    side = _FINER * size
    rng = random.Random(scene.seed)
    canvas = backgrounds.paint(scene.background, side, rng)
    place = Place(
        (_MIDDLE[0] + scene.x) * side,
        (_MIDDLE[1] + scene.y) * side,
        _UNIT * scene.size * side,
        math.radians(scene.angle),
    )
    if scene.background != "in space":
        _shadow(canvas, place)
    kind = KINDS[scene.kind]
    pattern, colours = _paint(scene, rng)
    night = scene.background in backgrounds.DARK
    ink = mix(DARK, (255, 255, 255), 0.45) if night and sum(colours[0]) < 300 else DARK
    body = patterns.paint(canvas.size, place, pattern, colours)
    subject = scene.subject
    hand = scene.hand
    if hand is not None:
        body = hatched(body, place, hand)
    look = Look(body, *colours)
    if subject is not None:
        look.parts = dict(subject.parts)
    pen = Pen(canvas, place, ink) if hand is None else Pen(canvas, place, hand.ink, hand.line)
    if scene.accessory == "balloon":
        tie_balloon(pen, kind)
    kind.draw(pen, look)
    if subject is not None and subject.emblem is not None:
        mark(pen, kind, *subject.emblem)
    if subject is not None and subject.extra is not None:
        EXTRAS[subject.extra[0]](pen, kind, subject.extra[1])
    if scene.accessory is not None:
        wear(pen, kind, scene.accessory)
    return np.asarray(canvas.reduce(_FINER))


def _paint(scene: Scene, rng: random.Random) -> tuple[str, tuple[Colour, Colour]]:
    """Pattern and both colours of the body; named colours vary a little."""
    subject = scene.subject
    if subject is not None:
        if scene.colour is None:
            return subject.pattern, subject.colours
        return subject.pattern, (COLOURS[scene.colour], subject.colours[1])
    names = (scene.colour, scene.second or partner(scene.colour))
    return scene.pattern, tuple(
        tuple(min(255, max(0, round(v + rng.uniform(-8, 8)))) for v in COLOURS[name])
        for name in names
    )


def _shadow(canvas: Image.Image, place: Place) -> None:
    mask = Image.new("L", canvas.size)
    draw = ImageDraw.Draw(mask)
    x, y = place.x, place.y + 0.97 * place.unit
    for k in range(6):  # rings from faint to full, as a soft edge
        rx, ry = (1.0 - 0.06 * k) * place.unit, (0.2 - 0.016 * k) * place.unit
        draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=14 * (k + 1))
    canvas.paste((20, 16, 30), mask=mask)
