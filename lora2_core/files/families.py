"""Which base models a set of layers can belong to, told by what decides.

A layer decides by being there (SDXL has no attention in input block 3, KOALA-700M no middle
block), by its place in a stack (only SDXL's are ten deep), by its width (input block 5 is 640 wide
in SDXL and 1280 in KOALA-700M), and cross-attention by the width of the text it reads. That a layer
is absent decides nothing, since adapters of a few layers are common, but for one case: where every
stack of the deepest level is there from its first block to its fifth and none goes on, the model
has five.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from .sgm_names import Head, head_of

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Family:
    """A UNet's architecture. layers: residual blocks a level on the way down. depths: transformer
    blocks in a stack, and widths: channels, of every level. middle: the stack of the middle block,
    None without one. context: width of the encoded text. conv_projections: whether proj_in and
    proj_out are 1×1 convolutions."""

    name: str
    layers: int
    depths: tuple[int, ...]
    middle: int | None
    widths: tuple[int, ...]
    context: int
    conv_projections: bool = False

    @cached_property
    def attention_up(self) -> tuple[bool, ...]:
        """Whether each level of the way up, in forward order, has attention."""
        return tuple(depth > 0 for depth in reversed(self.depths))

    @cached_property
    def stacks(self) -> dict[tuple[str, int], tuple[int, int]]:
        """(side, block) of every stack of transformer blocks → (width, depth)."""
        found = {}
        last = len(self.depths) - 1
        step = self.layers + 1
        for level, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            if not depth:
                continue
            for index in range(self.layers):
                found["input_blocks", step * level + index + 1] = width, depth
            for index in range(step):
                found["output_blocks", step * (last - level) + index] = width, depth
        if self.middle:
            found["middle_block", 1] = self.widths[-1], self.middle
        return found

    @cached_property
    def residuals(self) -> dict[tuple[str, int], int]:
        """(side, block) of every residual block → width; the middle block's are 0 and 2."""
        found = {}
        last = len(self.depths) - 1
        step = self.layers + 1
        for level, width in enumerate(self.widths):
            for index in range(self.layers):
                found["input_blocks", step * level + index + 1] = width
            for index in range(step):
                found["output_blocks", step * (last - level) + index] = width
        if self.middle is not None:
            found["middle_block", 0] = found["middle_block", 2] = self.widths[-1]
        return found

    def has(self, head: Head, part: str, depth: int) -> int | None:
        """Width of a layer there, or None if the UNet has no such layer.

        part: "stack", "residual", "down" or "up" (samplers). depth: within the stack, −1 outside.
        """
        side, block, slot = head
        if part == "stack":
            width, deep = self.stacks.get((side, block), (0, 0))
            return width if width and depth < deep and slot == 1 else None
        if part == "residual":
            place = (side, slot if side == "middle_block" else block)
            found = self.residuals.get(place)
            return found if slot == 0 or side == "middle_block" else None
        step, levels = self.layers + 1, len(self.depths)
        if part == "down":
            level, rest = divmod(block, step)
            there = side == "input_blocks" and slot == 0 and rest == 0 and 0 < level < levels
            return self.widths[level - 1] if there else None
        level, rest = divmod(block, step)
        there = side == "output_blocks" and rest == self.layers and level < levels - 1
        if not there or slot != (2 if self.attention_up[level] else 1):
            return None
        return self.widths[levels - 1 - level]


SDXL = Family("SDXL", 2, (0, 2, 10), 10, (320, 640, 1280), 2048)
KOALA = Family("KOALA", 1, (0, 2, 5), None, (320, 640, 1280), 2048)
SD1 = Family("Stable Diffusion 1", 2, (1, 1, 1, 0), 1, (320, 640, 1280, 1280), 768, True)
SD2 = Family("Stable Diffusion 2", 2, (1, 1, 1, 0), 1, (320, 640, 1280, 1280), 1024)
UNETS = {family.name: family for family in (SDXL, KOALA, SD1, SD2)}
BASES = {"sdxl": SDXL.name, "koala-700m": KOALA.name, "sd1": SD1.name, "sd2": SD2.name}
TWO_ENCODERS = frozenset((SDXL.name, KOALA.name))

# what only one kind of transformer has; flat names
_OTHERS = (
    (re.compile(r"(?:double_blocks|single_blocks|single_transformer_blocks)_\d"), "Flux"),
    (re.compile(r"\btransformer_blocks_\d+_(?:img_mlp|txt_mlp|img_mod|txt_mod)_"), "Qwen-Image"),
    (re.compile(r"blocks_\d+_(?:adaln_modulation_|(?:self|cross)_attn_[qkv]_proj)"), "Anima"),
    (re.compile(r"blocks_\d+_attn_w[qkvo]$|txtfusion_"), "Krea 2"),
    (re.compile(r"joint_blocks_\d"), "Stable Diffusion 3"),
)
_PARTS = {
    "in_layers_0": "residual", "in_layers_2": "residual", "emb_layers_1": "residual",
    "out_layers_0": "residual", "out_layers_3": "residual", "skip_connection": "residual",
    "proj_in": "stack", "proj_out": "stack", "norm": "stack", "op": "down", "conv": "up",
}  # fmt: skip
_NO_WIDTH = ("in_layers_0", "skip_connection", "out_layers_0")
_DEEPEST = ("down_blocks_2_attentions_", "up_blocks_0_attentions_")
_STACKED = re.compile(r"transformer_blocks_(\d+)_(.+)")
_KNOWN_WIDTHS = frozenset(width for family in UNETS.values() for width in family.widths)
_CONTEXTS = {family.context for family in UNETS.values()}
_EVERY = frozenset(UNETS)
_LONGEST = 200  # characters of a layer that is remembered


def families(
    unet: Iterable[tuple[str, str, Shape]], others: Iterable[str], two_encoders: bool
) -> frozenset[str]:
    """Names of the families that all of these layers can belong to; empty if nothing tells, or if
    they contradict each other.

    unet: block ("input_blocks_4_1", in either style), what follows, and shape of ΔW. others: flat
    names of what is no UNet's. two_encoders: whether layers of CLIP-G are among them.
    """
    found = _EVERY
    told = False
    stacks: dict[str, set[int]] = {}
    for head, rest, shape in unet:
        possible = _possible(head, rest, shape)
        if possible is not _EVERY:
            found, told = found & possible, True
        if head.startswith(_DEEPEST) and (match := _STACKED.fullmatch(rest)):
            stacks.setdefault(head, set()).add(int(match[1][:4]))
    if found >= TWO_ENCODERS and stacks:
        whole = set(range(KOALA.depths[-1]))
        if all(blocks == whole for blocks in stacks.values()):
            return frozenset((KOALA.name,))
    if told:
        return found & TWO_ENCODERS or found if two_encoders else found
    for flat in others:
        for pattern, name in _OTHERS:
            if pattern.search(flat):
                return frozenset((name,))
    return TWO_ENCODERS if two_encoders else frozenset()


class _Layer(NamedTuple):
    """What a layer says of its family beside the block it is in. part, depth: as in Family.has.
    width, context: 0 where they say nothing."""

    part: str
    depth: int
    width: int
    context: int


def _possible(head: str, rest: str, shape: Shape) -> frozenset[str]:
    """_EVERY itself where nothing tells."""
    if not head or len(rest) > _LONGEST:
        return _EVERY
    return _told(head, _layer(rest, shape))


@lru_cache(maxsize=5_000)
def _layer(rest: str, shape: Shape) -> _Layer:
    stacked = _STACKED.fullmatch(rest)
    layer, depth = (stacked[2], int(stacked[1][:4])) if stacked else (rest, -1)
    context = 0
    if stacked and layer.startswith(("attn2_to_k", "attn2_to_v")) and len(shape) > 1:
        context = shape[1] if shape[1] in _CONTEXTS else 0
    width = 0 if layer in _NO_WIDTH else shape[0] if shape else 0
    if layer.startswith("ff_net_0"):
        width //= 8  # GEGLU: twice four times
    width = width if width in _KNOWN_WIDTHS else 0
    return _Layer("stack" if stacked else _part(layer), depth, width, context)


def _part(layer: str) -> str:
    return _PARTS.get(layer) or _DIFFUSERS_PARTS.get(layer, "")


_DIFFUSERS_PARTS = dict.fromkeys(("conv1", "conv2", "time_emb_proj", "conv_shortcut"), "residual")


@lru_cache(maxsize=20_000)
def _told(head: str, layer: _Layer) -> frozenset[str]:
    part, depth, width, context = layer
    if not part:
        return _EVERY
    there = {}
    for family in UNETS.values():
        place = head_of(head, family.layers, family.attention_up)
        if place is None or context not in (0, family.context):
            continue
        kind = part
        if part == "up" and head.startswith("down_blocks"):
            kind = "down"  # diffusers calls both samplers' layers conv
        found = family.has(place, kind, depth)
        if found is not None:
            there[family.name] = found
    fitting = frozenset(name for name, found in there.items() if width in (0, found))
    # of a width that no family has there (a small model for tests), the place alone tells
    found = fitting or frozenset(there)
    return _EVERY if found == _EVERY else found
