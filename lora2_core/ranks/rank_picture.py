"""A rank report as a picture: one row a layer in forward order, one column a kind of projection."""

import math

from PIL import Image, ImageDraw, ImageFont

# Dark to light in even steps of lightness, told apart by every kind of colour vision (cividis).
_PALETTE = (
    (0, 34, 78), (18, 53, 112), (59, 73, 108), (87, 92, 109), (112, 113, 115), (138, 134, 120),
    (165, 156, 116), (195, 179, 105), (225, 204, 85), (254, 232, 56),
)  # fmt: skip
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 52, 20, 150, 44, 40  # of a cell, and around them
_TALLEST = 8000  # all rows together; more than 400 are drawn lower
_READABLE = 14  # a row of at least this height has text
_INK, _FAINT, _PAPER, _EMPTY = (34, 34, 40), (120, 120, 126), (252, 252, 250), (238, 238, 236)
_LONGEST, _LONGEST_COLUMN = 22, 9  # characters of a row's and a column's name


def colour(rank: int, highest: int) -> tuple[int, int, int]:
    """Colour of a rank of at least 1 on a logarithmic scale from 1 to `highest`."""
    place = math.log2(rank) / math.log2(highest) if highest > 1 else 0.0
    place = min(max(place, 0.0), 1.0) * (len(_PALETTE) - 1)
    low = min(int(place), len(_PALETTE) - 2)
    share = place - low
    pairs = zip(_PALETTE[low], _PALETTE[low + 1], strict=True)
    return tuple(round(a + (b - a) * share) for a, b in pairs)


def draw(report: dict, highest: int = 0) -> Image.Image:
    """The components of rank_report.report; where several share a cell, it shows the largest.

    Rank 0 has no colour but an outline: nothing of such a component is in the file.
    highest: the rank at the end of the scale, for several pictures on one; or else their own.
    """
    cells: dict[tuple[str, str], int] = {}
    for found in report["components"]:
        key = found["row"], found["column"]
        cells[key] = max(found["rank"], cells.get(key, 0))
    rows, columns = [line["row"] for line in report["rows"]], report["columns"]
    height = max(2, min(_HEIGHT, _TALLEST // len(rows)))
    width = max(_LEFT + len(columns) * _WIDTH + 24, 420)
    image = Image.new("RGB", (width, _TOP + len(rows) * height + _BOTTOM), _PAPER)
    pen = ImageDraw.Draw(image)
    font, small = ImageFont.load_default(12), ImageFont.load_default(11)
    for index, column in enumerate(columns):
        centre = _LEFT + (index + 0.5) * _WIDTH
        first, _, rest = column.partition(" ")
        pen.text((centre, 14), _cut(first, _LONGEST_COLUMN), _FAINT, small, anchor="mm")
        pen.text((centre, 30), _cut(rest, _LONGEST_COLUMN), _INK, font, anchor="mm")
    own = max(cells.values())
    highest = max(highest, own)
    for line, name in enumerate(rows):
        y = _TOP + line * height
        if height >= _READABLE:
            shown = _cut(name, _LONGEST)
            pen.text((_LEFT - 8, y + height / 2), shown, _INK, font, anchor="rm")
        for index, column in enumerate(columns):
            x = _LEFT + index * _WIDTH
            # a gap between cells, where there is room for one
            box = (x + 1, y + height // 8, x + _WIDTH - 1, y + height - 1)
            rank = cells.get((name, column))
            if rank is None:
                pen.rectangle(box, _EMPTY)
                continue
            fill = colour(rank, highest) if rank else _PAPER
            pen.rectangle(box, fill, None if rank else _FAINT)
            if height >= _READABLE:
                ink = (255, 255, 255) if sum(fill) < 360 else _INK if rank else _FAINT
                centre = (x + _WIDTH / 2, y + height / 2)
                pen.text(centre, str(rank), ink, font, anchor="mm")
    totals, left_out = report["totals"], sum(row["rank"] == 0 for row in report["components"])
    text = (
        f"{totals['components']} layers, mean rank {totals['mean_rank']:.1f}, "
        f"{totals['min_rank']} to {own}{f', {left_out} of rank 0' if left_out else ''}"
    )
    pen.text((12, image.height - _BOTTOM / 2), text, _INK, font, anchor="lm")
    return image


def _cut(name: str, longest: int) -> str:
    """Its end, if it is longer; without what could break the line or turn its direction."""
    name = name if len(name) <= longest else f"…{name[1 - longest :]}"
    return "".join(letter if letter.isprintable() else "·" for letter in name)
