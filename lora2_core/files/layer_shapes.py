"""The shape of a layer itself. Files differ: some write a convolution flattened, [r, in·k·k], and
some a matrix as a 1×1 convolution. ΔW is the same numbers in the same order.
"""

import re
from collections.abc import Collection, Iterable
from math import prod

from .families import UNETS

Shape = tuple[int, ...]

_LAYER = re.compile(
    r"lora_unet_(?:(?:input|output)_blocks_\d+_\d+|middle_block_\d+)_(?P<layer>\w+)"
    r"|lora_unet_(?P<outside>input_blocks_0_0|out_2)"
)
_OUTSIDE_MATRICES = ("lora_te", "lora_unet_time_embed_", "lora_unet_label_emb_")
_SQUARE = frozenset(("in_layers_2", "out_layers_3", "op", "conv"))  # 3×3 in every UNet
_PROJECTIONS = frozenset(("proj_in", "proj_out"))
_MATRICES = re.compile(r"transformer_blocks_\d+_\w+|emb_layers_1")


def layer_shape(name: str, shape: Shape, families: Collection[str]) -> Shape:
    """Of ΔW in the layer's own form, where its canonical name or the family tells it.

    families: base models that it can belong to, empty if unknown.
    """
    if (len(shape) == 2 and "_transformer_blocks_" in name) or not set(shape[2:]) <= {1}:
        return shape
    found = _kernel(name, families)
    if found is None:
        return shape
    if found == 0:
        return shape[:2]
    if len(shape) > 2 or shape[1] % (found * found):
        return shape
    return (shape[0], shape[1] // (found * found), found, found)


def shared_shape(shapes: Iterable[Shape]) -> Shape | None:
    """The layer's form where several adapters have one layer; None if these are no one layer.

    A kernel that one of them states is the layer's; else a convolution is one that any calls so.
    """
    shapes = list(dict.fromkeys(shapes))
    if len({(shape[0], prod(shape[1:])) for shape in shapes}) > 1:
        return None
    kernels = [shape for shape in shapes if prod(shape[2:]) > 1]
    if len(kernels) > 1:
        return None
    return kernels[0] if kernels else max(shapes, key=len)


def _kernel(name: str, families: Collection[str]) -> int | None:
    """Its width, 0 of a matrix, None if nothing tells."""
    if name.startswith(_OUTSIDE_MATRICES):
        return 0
    match = _LAYER.fullmatch(name)
    if match is None:
        return None
    layer = match["layer"]
    if layer is None or layer in _SQUARE:
        return 3
    if layer == "skip_connection":
        return 1
    if layer in _PROJECTIONS:
        ways = {UNETS[family].conv_projections for family in families if family in UNETS}
        return int(ways.pop()) if len(ways) == 1 else None
    return 0 if _MATRICES.fullmatch(layer) else None
