"""A rank report as a picture: one row a layer in forward order, one column a projection."""

import math
import re

from PIL import Image, ImageDraw, ImageFont

# Dark to light in even steps of lightness, told apart by every kind of colour vision (cividis).
_PALETTE = (
    (0, 34, 78), (18, 53, 112), (59, 73, 108), (87, 92, 109), (112, 113, 115), (138, 134, 120),
    (165, 156, 116), (195, 179, 105), (225, 204, 85), (254, 232, 56),
)  # fmt: skip
_COLUMNS = {
    "self": ("attn1_to_q", "attn1_to_k", "attn1_to_v", "attn1_to_out_0"),
    "cross": ("attn2_to_q", "attn2_to_k", "attn2_to_v", "attn2_to_out_0"),
}
_CELL, _LEFT, _TOP, _LEGEND = (44, 22), 210, 58, 46
_INK, _PAPER, _EMPTY = (34, 34, 40), (252, 252, 250), (236, 236, 234)
_LAYER = re.compile(r"(?P<layer>.+?)_(?P<projection>attn[12]_to_(?:q|k|v|out_0))$")


def colour(rank: int, highest: int) -> tuple[int, int, int]:
    """Colour of a rank on a logarithmic scale from 1 to `highest`."""
    place = math.log2(rank) / math.log2(highest) if highest > 1 else 0.0
    place = min(max(place, 0.0), 1.0) * (len(_PALETTE) - 1)
    low = min(int(place), len(_PALETTE) - 2)
    share = place - low
    pairs = zip(_PALETTE[low], _PALETTE[low + 1], strict=True)
    return tuple(round(a + (b - a) * share) for a, b in pairs)


def draw(report: dict) -> Image.Image:
    """The attention projections of rank_report.report's components; other layers are counted."""
    found: dict[str, dict[str, int]] = {}
    others = 0
    for row in report["components"]:
        match = _LAYER.match(row["name"])
        if match is None:
            others += 1
        else:
            found.setdefault(match["layer"], {})[match["projection"]] = row["rank"]
    highest = max(row["rank"] for row in report["components"])
    width = _LEFT + 8 * _CELL[0] + 40
    height = _TOP + len(found) * _CELL[1] + _LEGEND
    image = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(image)
    small, large = ImageFont.load_default(12), ImageFont.load_default(14)
    for group, (title, projections) in enumerate(_COLUMNS.items()):
        x0 = _LEFT + group * (4 * _CELL[0] + 16)
        middle = x0 + 2 * _CELL[0]
        pen.text((middle, 16), f"{title} attention", _INK, large, anchor="mm")
        for column, projection in enumerate(projections):
            x = x0 + column * _CELL[0]
            name = projection.split("_")[2]
            pen.text((x + _CELL[0] / 2, 42), name, _INK, small, anchor="mm")
            for line, (layer, ranks) in enumerate(found.items()):
                y = _TOP + line * _CELL[1]
                if group == column == 0:
                    pen.text((_LEFT - 10, y + _CELL[1] / 2), _short(layer), _INK, small, "rm")
                box = (x + 1, y + 1, x + _CELL[0] - 1, y + _CELL[1] - 1)
                if projection not in ranks:
                    pen.rectangle(box, _EMPTY)
                    continue
                rank = ranks[projection]
                fill = colour(rank, highest)
                pen.rectangle(box, fill)
                ink = (255, 255, 255) if sum(fill) < 360 else _INK
                centre = (x + _CELL[0] / 2, y + _CELL[1] / 2)
                pen.text(centre, str(rank), ink, small, anchor="mm")
    totals = report["totals"]
    text = f"{totals['components']} layers, mean rank {totals['mean_rank']:.1f}, 1 to {highest}"
    if others:
        text += f"; {others} layers of other kinds are not shown"
    pen.text((_LEFT, height - _LEGEND / 2), text, _INK, small, anchor="lm")
    return image


def _short(layer: str) -> str:
    """down 3.1 · block 0, from the file's name of a transformer block."""
    match = re.search(r"(input|middle|output)(?:_blocks|_block)_(\d+)(?:_(\d+))?.*?_(\d+)$", layer)
    if match is None:
        return layer[-28:]
    side = {"input": "down", "middle": "middle", "output": "up"}[match[1]]
    place = match[2] if match[3] is None else f"{match[2]}.{match[3]}"
    return f"{side} {place} · block {match[4]}"
