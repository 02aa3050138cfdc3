"""Names of a UNet's modules as single-file checkpoints have them.

diffusers counts blocks by level (`down_blocks.1.attentions.0`), the original UNet counts through
(`input_blocks.4.1`). Adapter files use the latter, which every loader understands.
"""

import re
from functools import lru_cache
from typing import NamedTuple

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_RESNET_FLAT = {name: original.replace(".", "_") for name, original in _RESNET.items()}
PLAIN = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_BLOCK = re.compile(
    r"(?P<path>down_blocks|up_blocks|mid_block)\.(?:(?P<level>\d+)\.)?"
    r"(?P<kind>resnets|attentions|downsamplers|upsamplers)\.(?P<index>\d+)\.(?P<rest>.+)"
)


class Head(NamedTuple):
    """Where a layer stands in the original UNet: `input_blocks.4.1` is ("input_blocks", 4, 1); of
    the middle block, block and slot are the same number."""

    side: str
    block: int
    slot: int

    def __str__(self) -> str:
        middle = self.side == "middle_block"
        return f"{self.side}_{self.slot}" if middle else f"{self.side}_{self.block}_{self.slot}"


_SGM_HEAD = re.compile(r"(?:(input_blocks|output_blocks)_(\d+)|(middle_block))_(\d+)")
_FLAT_HEAD = re.compile(
    r"(?:(?P<path>down_blocks|up_blocks)_(?P<level>\d+)|mid_block)_"
    r"(?P<kind>resnets|attentions|downsamplers|upsamplers)_(?P<index>\d+)"
)
_MOST = 6  # digits of a number that is looked at; a stranger's may have thousands


@lru_cache(maxsize=20_000)
def head_of(flat: str, layers_per_block: int, attention_levels: tuple[bool, ...]) -> Head | None:
    """Of a flat name's beginning in either style ("input_blocks_4_1",
    "down_blocks_1_attentions_0"), or None for another.

    layers_per_block, attention_levels: as in sgm_name.
    """
    if match := _SGM_HEAD.fullmatch(flat):
        if any(number and len(number) > _MOST for number in (match[2], match[4])):
            return None
        slot = int(match[4])
        return Head(match[1] or match[3], slot if match[3] else int(match[2]), slot)
    match = _FLAT_HEAD.fullmatch(flat)
    if match is None or any(len(match[key] or "") > _MOST for key in ("level", "index")):
        return None
    path, kind = match["path"], match["kind"]
    level, index = int(match["level"] or 0), int(match["index"])
    slot = 1 if kind == "attentions" else 0
    if path is None:
        slot = slot or 2 * index
        return Head("middle_block", slot, slot)
    step = layers_per_block + 1
    if path == "down_blocks":
        if kind == "downsamplers":
            return Head("input_blocks", step * (level + 1), 0)
        within = index < layers_per_block and kind != "upsamplers"
        return Head("input_blocks", step * level + index + 1, slot) if within else None
    if kind == "upsamplers":
        attention = level < len(attention_levels) and attention_levels[level]
        return Head("output_blocks", step * level + layers_per_block, 2 if attention else 1)
    within = index < step and kind != "downsamplers"
    return Head("output_blocks", step * level + index, slot) if within else None


def sgm_flat(
    head: str, rest: str, layers_per_block: int, attention_levels: tuple[bool, ...]
) -> str:
    """The original UNet's flat name of a layer in either style, from its beginning and the rest; of
    a layer that no such UNet has, the name it has."""
    found = _written_head(head, layers_per_block, attention_levels)
    if found is None:
        return f"{head}_{rest}"
    if "_resnets_" in head:
        rest = _RESNET_FLAT.get(rest, rest)
    elif "_downsamplers_" in head:
        rest = "op"
    return f"{found}_{rest}"


@lru_cache(maxsize=20_000)
def _written_head(
    flat: str, layers_per_block: int, attention_levels: tuple[bool, ...]
) -> str | None:
    found = head_of(flat, layers_per_block, attention_levels)
    return None if found is None else str(found)


def sgm_name(name: str, layers_per_block: int, attention_levels: tuple[bool, ...]) -> str:
    """The original UNet's name for module `name` of a diffusers UNet.

    layers_per_block: residual blocks a level on the way down (one more on the way up).
    attention_levels: whether each up level, in forward order, has attention.
    Raises ValueError for a name that no such UNet has.
    """
    if name in PLAIN:
        return PLAIN[name]
    match = _BLOCK.fullmatch(name)
    if match is None:
        raise ValueError(f"{name} is not a module of a UNet2DConditionModel")
    rest = match["rest"]
    if match["kind"] == "resnets":
        head, _, tail = rest.partition(".")
        rest = _RESNET[head] + (f".{tail}" if tail else "")
    if match["kind"] == "downsamplers":
        rest = "op"
    beginning = name.removesuffix(f".{match['rest']}").replace(".", "_")
    found = head_of(beginning, layers_per_block, attention_levels)
    if found is None:
        raise ValueError(f"{name} is not a module of a UNet2DConditionModel")
    middle = found.side == "middle_block"
    block = f"{found.side}.{found.slot}" if middle else f"{found.side}.{found.block}.{found.slot}"
    return f"{block}.{rest}"
