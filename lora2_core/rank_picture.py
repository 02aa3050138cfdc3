"""A rank report as a picture: one row a layer in forward order, one column a kind of projection."""

import math

from PIL import Image, ImageDraw, ImageFont

# Dark to light in even steps of lightness, told apart by every kind of colour vision (cividis).
_PALETTE = (
    (0, 34, 78), (18, 53, 112), (59, 73, 108), (87, 92, 109), (112, 113, 115), (138, 134, 120),
    (165, 156, 116), (195, 179, 105), (225, 204, 85), (254, 232, 56),
)  # fmt: skip
_CELL, _LEFT, _TOP, _BOTTOM = (52, 20), 150, 44, 40
_INK, _FAINT, _PAPER, _EMPTY = (34, 34, 40), (120, 120, 126), (252, 252, 250), (238, 238, 236)
_LONGEST = 22  # characters of a row's name


def colour(rank: int, highest: int) -> tuple[int, int, int]:
    """Colour of a rank on a logarithmic scale from 1 to `highest`."""
    place = math.log2(rank) / math.log2(highest) if highest > 1 else 0.0
    place = min(max(place, 0.0), 1.0) * (len(_PALETTE) - 1)
    low = min(int(place), len(_PALETTE) - 2)
    share = place - low
    pairs = zip(_PALETTE[low], _PALETTE[low + 1], strict=True)
    return tuple(round(a + (b - a) * share) for a, b in pairs)


def draw(report: dict) -> Image.Image:
    """The components of rank_report.report; where several share a cell, it shows the largest."""
    cells: dict[tuple[str, str], int] = {}
    for found in report["components"]:
        key = found["row"], found["column"]
        cells[key] = max(found["rank"], cells.get(key, 0))
    rows = [line["row"] for line in report["rows"]]
    columns = report["columns"]
    highest = max(cells.values())
    width = _LEFT + len(columns) * _CELL[0] + 24
    image = Image.new("RGB", (max(width, 420), _TOP + len(rows) * _CELL[1] + _BOTTOM), _PAPER)
    pen = ImageDraw.Draw(image)
    font, small = ImageFont.load_default(12), ImageFont.load_default(11)
    for index, column in enumerate(columns):
        centre = _LEFT + (index + 0.5) * _CELL[0]
        first, _, rest = column.partition(" ")
        pen.text((centre, 14), first, _FAINT, small, anchor="mm")
        pen.text((centre, 30), rest, _INK, font, anchor="mm")
    for line, name in enumerate(rows):
        y = _TOP + line * _CELL[1]
        shown = name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST:]}"
        pen.text((_LEFT - 8, y + _CELL[1] / 2), shown, _INK, font, anchor="rm")
        for index, column in enumerate(columns):
            x = _LEFT + index * _CELL[0]
            box = (x + 1, y + 1, x + _CELL[0] - 1, y + _CELL[1] - 1)
            rank = cells.get((name, column))
            if rank is None:
                pen.rectangle(box, _EMPTY)
                continue
            fill = colour(rank, highest)
            pen.rectangle(box, fill)
            ink = (255, 255, 255) if sum(fill) < 360 else _INK
            centre = (x + _CELL[0] / 2, y + _CELL[1] / 2)
            pen.text(centre, str(rank), ink, font, anchor="mm")
    totals = report["totals"]
    text = f"{totals['components']} layers, mean rank {totals['mean_rank']:.1f}, 1 to {highest}"
    pen.text((12, image.height - _BOTTOM / 2), text, _INK, font, anchor="lm")
    return image
