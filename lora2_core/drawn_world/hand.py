"""A hand of drawing: what every object has in common where one hand drew them all."""

from dataclasses import dataclass

from PIL import Image, ImageDraw

from .pen import Colour, Place

_REACH = 3.0  # of a stroke from the object's middle, in local units: past every body


@dataclass(frozen=True)
class Hand:
    """ink: colour of all lines. line, stroke, gap: widths of an outline and of a stroke of the
    hatching, and from one stroke to the next, in local units.
    """

    ink: Colour
    line: float
    stroke: float
    gap: float


def hatched(paint: Image.Image, place: Place, hand: Hand) -> Image.Image:
    """The paint of a body with strokes over it, from its upper right to its lower left."""
    found = paint.copy()
    draw = ImageDraw.Draw(found)
    width = max(1, round(hand.stroke * place.unit))
    count = int(_REACH / hand.gap)
    for index in range(-count, count + 1):
        shift = index * hand.gap
        ends = [place((shift - _REACH, _REACH)), place((shift + _REACH, -_REACH))]
        draw.line(ends, fill=hand.ink, width=width)
    return found
