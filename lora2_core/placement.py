"""Where in the network a component sits: a row a block, a column a kind of layer."""

import re
from collections.abc import Iterable
from typing import NamedTuple

_ATTENTION = {"attn1": "self", "attn2": "cross"}
COLUMNS = (
    "self q", "self k", "self v", "self out", "cross q", "cross k", "cross v", "cross out",
    "ff in", "ff out", "proj in", "proj out", "conv 1", "conv 2", "time", "skip", "resize", "other",
)  # fmt: skip
SECTIONS = ("text 1", "text 2", "down", "middle", "up", "other")

_SIDES = {"input_blocks": "down", "middle_block": "middle", "output_blocks": "up"}
_UNET = re.compile(
    r"lora_unet_(?P<side>input_blocks|middle_block|output_blocks)_(?P<block>\d+)_(?P<rest>.+)"
)
_TRANSFORMER = re.compile(r"(?:\d+_)?transformer_blocks_(?P<index>\d+)_(?P<layer>.+)")
_PROJECTION = re.compile(r"(attn[12])_to_(q|k|v|out)(?:_0)?")
_FEED_FORWARD = {"ff_net_0_proj": "ff in", "ff_net_2": "ff out"}
_PLAIN = {
    "proj_in": "proj in", "proj_out": "proj out", "in_layers_2": "conv 1", "out_layers_3": "conv 2",
    "emb_layers_1": "time", "skip_connection": "skip", "op": "resize", "conv": "resize",
}  # fmt: skip
_TEXT = re.compile(r"lora_te(?P<which>[12]?)_text_model_encoder_layers_(?P<layer>\d+)_(?P<rest>.+)")
_TEXT_LAYERS = {
    "self_attn_q_proj": "self q", "self_attn_k_proj": "self k", "self_attn_v_proj": "self v",
    "self_attn_out_proj": "self out", "mlp_fc1": "ff in", "mlp_fc2": "ff out",
}  # fmt: skip


class Place(NamedTuple):
    """section: one of SECTIONS. block: within it, such as "down 4"; row: a layer of the block, such
    as "down 4 · 1"; column: one of COLUMNS."""

    section: str
    block: str
    row: str
    column: str


def place(name: str) -> Place:
    """Of a component under kohya's name (module_names.canonical_names); never raises."""
    if match := _TEXT.fullmatch(name):
        section = f"text {match['which'] or '1'}"
        row = f"{section} · {int(match['layer'])}"
        return Place(section, section, row, _TEXT_LAYERS.get(match["rest"], "other"))
    match = _UNET.fullmatch(name)
    if match is None:
        return Place("other", "other", name, "other")
    section = _SIDES[match["side"]]
    # the middle block's numbers are places within it
    block = "middle" if section == "middle" else f"{section} {int(match['block'])}"
    inner = _TRANSFORMER.fullmatch(match["rest"])
    if inner is None:
        layer = re.sub(r"^\d+_", "", match["rest"])
        return Place(section, block, block, _PLAIN.get(layer, "other"))
    row = f"{block} · {int(inner['index'])}"
    if projection := _PROJECTION.fullmatch(inner["layer"]):
        return Place(section, block, row, f"{_ATTENTION[projection[1]]} {projection[2]}")
    return Place(section, block, row, _FEED_FORWARD.get(inner["layer"], "other"))


def order(found: Place) -> tuple:
    """Sorts places in forward order: text encoders, down, middle, up."""
    numbers = (
        tuple(int(part) for part in re.findall(r"\d+", found.row))
        if found.section != ("other")
        else ()
    )
    return SECTIONS.index(found.section), numbers, found.row, COLUMNS.index(found.column)


def outline(places: Iterable[Place]) -> dict:
    """{"rows": [{row, section, block}…], "columns": […]} of those that occur, in forward order."""
    found = sorted(places, key=order)
    first = {place.row: place for place in reversed(found)}
    return {
        "rows": [
            {"row": place.row, "section": place.section, "block": place.block}
            for place in sorted(first.values(), key=order)
        ],
        "columns": [name for name in COLUMNS if any(place.column == name for place in found)],
    }
