"""Where in the network a component sits: a row a block, a column a kind of layer."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

_ATTENTION = {"attn1": "self", "attn2": "cross"}
COLUMNS = (
    "self q", "self k", "self v", "self out", "cross q", "cross k", "cross v", "cross out",
    "ff in", "ff out", "proj in", "proj out", "conv 1", "conv 2", "time", "skip", "resize", "other",
)  # fmt: skip
SECTIONS = ("text 1", "text 2", "down", "middle", "up", "other")

_SIDES = {"input_blocks": "down", "middle_block": "middle", "output_blocks": "up"}
_UNET = re.compile(
    r"lora_unet_(?P<side>input_blocks|middle_block|output_blocks)_(?P<block>\d{1,6})_(?P<rest>.+)"
)
_TRANSFORMER = re.compile(r"(?:\d+_)?transformer_blocks_(?P<index>\d{1,6})_(?P<layer>.+)")
_PROJECTION = re.compile(r"(attn[12])_to_(q|k|v|out)(?:_0)?")
_FEED_FORWARD = {"ff_net_0_proj": "ff in", "ff_net_2": "ff out"}
_PLAIN = {
    "proj_in": "proj in", "proj_out": "proj out", "in_layers_2": "conv 1", "out_layers_3": "conv 2",
    "emb_layers_1": "time", "skip_connection": "skip", "op": "resize", "conv": "resize",
}  # fmt: skip
_TEXT = re.compile(
    r"lora_te(?P<which>[12]?)_text_model_encoder_layers_(?P<layer>\d{1,6})_(?P<rest>.+)"
)
_TEXT_LAYERS = {
    "self_attn_q_proj": "self q", "self_attn_k_proj": "self k", "self_attn_v_proj": "self v",
    "self_attn_out_proj": "self out", "mlp_fc1": "ff in", "mlp_fc2": "ff out",
}  # fmt: skip
_NUMBERED = re.compile(r"(?P<row>.*?[._]\d+)[._](?P<column>.+)")
_MOST_COLUMNS = 24  # of another architecture; more cannot be read
_LONGEST = 40  # characters of a column's name


class Place(NamedTuple):
    """section: one of SECTIONS. block: within it, such as "down 4"; row: a layer of the block, such
    as "down 4 · 1"; column: one of COLUMNS, or a name of another architecture's."""

    section: str
    block: str
    row: str
    column: str


def places(names: Mapping[str, str]) -> dict[str, Place]:
    """Of components by any key, given their kohya names (module_names.canonical_names)."""
    found = {key: place(name) for key, name in names.items()}
    foreign = {key: _foreign(names[key]) for key, one in found.items() if one.section == "other"}
    if len({one.column for one in foreign.values()}) > _MOST_COLUMNS:
        return found
    return found | foreign


def _foreign(name: str) -> Place:
    """In another architecture: up to the first number is the block, the rest the kind of layer."""
    match = _NUMBERED.fullmatch(name)
    if match is None or len(match["column"]) > _LONGEST:
        return Place("other", "other", name, "other")
    row = match["row"].removeprefix("lora_unet_").removeprefix("lora_transformer_")
    return Place("other", row, row, re.sub(r"[._]+", " ", match["column"]))


def place(name: str) -> Place:
    """Of a component of SD 1, SDXL or KOALA; in other networks each has a row of its own."""
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
    """Sorts places in forward order: text encoders, down, middle, up, others by their numbers."""
    return *_row(found), _column(found)


def _row(found: Place) -> tuple:
    parts = re.split(r"(\d{1,6})", found.row)  # a stranger's number may have thousands of digits
    parts[1::2] = [int(number) for number in parts[1::2]]
    return SECTIONS.index(found.section), parts


def _column(found: Place) -> tuple[int, str]:
    known = found.column in COLUMNS
    return COLUMNS.index(found.column) if known else len(COLUMNS), found.column


def outline(places: Iterable[Place]) -> dict:
    """{"rows": [{row, section, block}…], "columns": […]} of those that occur, in forward order."""
    found = list(places)
    rows = sorted({one.row: one for one in found}.values(), key=_row)
    columns = sorted({one.column: one for one in found}.values(), key=_column)
    return {
        "rows": [{"row": one.row, "section": one.section, "block": one.block} for one in rows],
        "columns": [one.column for one in columns],
    }
