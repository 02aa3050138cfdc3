"""Body paint: one colour, or two in a pattern that turns with the object."""

from PIL import Image, ImageDraw

from .pen import Colour, Place, box, ellipse, shaded

PATTERNS = ("solid", "striped", "dotted", "checked", "two-coloured")


def paint(
    size: tuple[int, int], place: Place, pattern: str, colours: tuple[Colour, Colour]
) -> Image.Image:
    """A whole canvas of the pattern, lit from the upper left; used through a shape's mask."""
    first, second = colours
    canvas = Image.new("RGB", size, first)
    draw = ImageDraw.Draw(canvas)
    for outline in _FORMS[pattern]:
        draw.polygon([place(p) for p in outline], fill=second)
    return shaded(canvas, place)


_STEP = 0.46  # of a stripe and its gap, in local units: about 15 px at 128 px
_FORMS = {
    "solid": [],
    "striped": [box(-2, y, 2, y + _STEP / 2) for y in (-1.73 + _STEP * i for i in range(8))],
    "dotted": [
        ellipse(x * 0.42 + (y % 2) * 0.21, y * 0.36 + 0.1, 0.12, 0.12)
        for x in range(-4, 4)
        for y in range(-4, 5)
    ],
    "checked": [
        box(x * 0.28, y * 0.28, x * 0.28 + 0.28, y * 0.28 + 0.28)
        for x in range(-6, 6)
        for y in range(-6, 6)
        if (x + y) % 2
    ],
    "two-coloured": [box(0, -2, 2, 2)],
}
