"""Pictures of many steps on one sheet, each with its step under it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_SIDE = 256  # px, the longer side of a picture
_GAP, _LINE = 8, 24  # px around the pictures, and of the line under them
_MOST = 100  # steps; of longer runs an even choice with first and last
_INK, _PAPER = (34, 34, 40), (252, 252, 250)


def contact_sheet(steps: Mapping[int, Sequence[Path]]) -> Image.Image:
    """Step → picture files, as one picture about as wide as high; steps in the mapping's order.

    Pictures of a step stand side by side. Raises OSError for a file that cannot be read, and
    ValueError without any step.
    """
    cells = [(step, [_small(path) for path in steps[step]]) for step in _chosen(list(steps))]
    width = max(sum(p.width + _GAP for p in pictures) for _, pictures in cells)
    height = max(p.height for _, pictures in cells for p in pictures) + _LINE
    columns = min(len(cells), max(1, round(math.sqrt(len(cells) * height / width))))
    rows = math.ceil(len(cells) / columns)
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for index, (step, pictures) in enumerate(cells):
        left = _GAP + index % columns * width
        top = _GAP + index // columns * height
        middle = left + (width - _GAP) / 2
        pen.text((middle, top + height - _LINE / 2 - 2), f"step {step}", _INK, font, anchor="mm")
        for picture in pictures:
            sheet.paste(picture, (left, top + height - _LINE - picture.height))
            left += picture.width + _GAP
    return sheet


def _chosen(steps: list[int]) -> list[int]:
    if len(steps) <= _MOST:
        return steps
    return [steps[round(i * (len(steps) - 1) / (_MOST - 1))] for i in range(_MOST)]


def _small(path: Path) -> Image.Image:
    with Image.open(path) as image:
        picture = image.convert("RGB")
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return picture
