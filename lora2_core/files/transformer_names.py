"""Layers of transformers that have two spellings: the original model's, and diffusers'.

Where a layer is one in both, it has one name here. Where the original has query, key and value in
one matrix and diffusers each apart, or the halves of a matrix stand in another order, the two are
no one layer, and an adapter of the one cannot be added to an adapter of the other by name. Source:
the key maps of ComfyUI's comfy/utils.py. All names are flat, with underscores for dots.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class Blocks:
    """theirs, ours: what stands before the block's number in diffusers and in the original. same:
    diffusers' layer → the original's. within: a layer that is a part of the original's, or has its
    halves turned."""

    theirs: str
    ours: str
    same: Mapping[str, str]
    within: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Spelling:
    """native: what only the original's names have. same, within: of layers outside the blocks."""

    native: re.Pattern
    blocks: tuple[Blocks, ...]
    same: Mapping[str, str]
    within: Mapping[str, str] = field(default_factory=dict)


class Spelt(NamedTuple):
    """name: of the layer in the original's spelling, None where it is as it was. within: the
    original's layer that it is a part of, None if it is whole."""

    name: str | None
    within: str | None


def _parts(whole: str, *parts: str) -> dict[str, str]:
    return dict.fromkeys(parts, whole)


_FLUX = Spelling(
    re.compile(r"(?:double|single)_blocks_\d"),
    (
        Blocks(
            "transformer_blocks",
            "double_blocks",
            {
                "attn_to_out_0": "img_attn_proj",
                "attn_to_add_out": "txt_attn_proj",
                "norm1_linear": "img_mod_lin",
                "norm1_context_linear": "txt_mod_lin",
                "ff_net_0_proj": "img_mlp_0",
                "ff_net_2": "img_mlp_2",
                "ff_context_net_0_proj": "txt_mlp_0",
                "ff_context_net_2": "txt_mlp_2",
                "ff_linear_in": "img_mlp_0",
                "ff_linear_out": "img_mlp_2",
                "ff_context_linear_in": "txt_mlp_0",
                "ff_context_linear_out": "txt_mlp_2",
            },
            _parts("img_attn_qkv", "attn_to_q", "attn_to_k", "attn_to_v")
            | _parts("txt_attn_qkv", "attn_add_q_proj", "attn_add_k_proj", "attn_add_v_proj"),
        ),
        Blocks(
            "single_transformer_blocks",
            "single_blocks",
            {
                "norm_linear": "modulation_lin",
                "proj_out": "linear2",
                "attn_to_qkv_mlp_proj": "linear1",
                "attn_to_out_0": "linear2",
            },
            _parts("linear1", "attn_to_q", "attn_to_k", "attn_to_v", "proj_mlp"),
        ),
        Blocks("single_blocks", "single_blocks", {}, _parts("linear1", "linear1_qkv")),
    ),
    {
        "x_embedder": "img_in",
        "context_embedder": "txt_in",
        "proj_out": "final_layer_linear",
        "time_text_embed_timestep_embedder_linear_1": "time_in_in_layer",
        "time_text_embed_timestep_embedder_linear_2": "time_in_out_layer",
        "time_text_embed_text_embedder_linear_1": "vector_in_in_layer",
        "time_text_embed_text_embedder_linear_2": "vector_in_out_layer",
        "time_text_embed_guidance_embedder_linear_1": "guidance_in_in_layer",
        "time_text_embed_guidance_embedder_linear_2": "guidance_in_out_layer",
    },
    {"norm_out_linear": "final_layer_adaLN_modulation_1"},
)
_SD3 = Spelling(
    re.compile(r"joint_blocks_\d"),
    (
        Blocks(
            "transformer_blocks",
            "joint_blocks",
            {
                "attn_to_out_0": "x_block_attn_proj",
                "attn2_to_out_0": "x_block_attn2_proj",
                "attn_to_add_out": "context_block_attn_proj",
                "norm1_linear": "x_block_adaLN_modulation_1",
                "ff_net_0_proj": "x_block_mlp_fc1",
                "ff_net_2": "x_block_mlp_fc2",
                "ff_context_net_0_proj": "context_block_mlp_fc1",
                "ff_context_net_2": "context_block_mlp_fc2",
            },
            _parts("x_block_attn_qkv", "attn_to_q", "attn_to_k", "attn_to_v")
            | _parts("x_block_attn2_qkv", "attn2_to_q", "attn2_to_k", "attn2_to_v")
            | _parts(
                "context_block_attn_qkv", "attn_add_q_proj", "attn_add_k_proj", "attn_add_v_proj"
            )
            # of the last block the halves are turned, and the number of blocks is not known
            | _parts("context_block_adaLN_modulation_1", "norm1_context_linear"),
        ),
    ),
    {
        "pos_embed_proj": "x_embedder_proj",
        "proj_out": "final_layer_linear",
        "time_text_embed_timestep_embedder_linear_1": "t_embedder_mlp_0",
        "time_text_embed_timestep_embedder_linear_2": "t_embedder_mlp_2",
        "time_text_embed_text_embedder_linear_1": "y_embedder_mlp_0",
        "time_text_embed_text_embedder_linear_2": "y_embedder_mlp_2",
    },
    {"norm_out_linear": "final_layer_adaLN_modulation_1"},
)
_KREA_LAYERS = {
    "attn_to_q": "attn_wq", "attn_to_k": "attn_wk", "attn_to_v": "attn_wv",
    "attn_to_out_0": "attn_wo", "attn_to_gate": "attn_gate",
    "ff_gate": "mlp_gate", "ff_up": "mlp_up", "ff_down": "mlp_down",
}  # fmt: skip
_KREA_2 = Spelling(
    re.compile(r"blocks_\d+_attn_w[qkvo]$|blocks_\d+_mlp_(?:gate|up|down)$|txtfusion_"),
    (
        Blocks("transformer_blocks", "blocks", _KREA_LAYERS),
        Blocks("text_fusion_layerwise_blocks", "txtfusion_layerwise_blocks", _KREA_LAYERS),
        Blocks("text_fusion_refiner_blocks", "txtfusion_refiner_blocks", _KREA_LAYERS),
    ),
    {
        "img_in": "first",
        "time_embed_linear_1": "tmlp_0",
        "time_embed_linear_2": "tmlp_2",
        "time_mod_proj": "tproj_1",
        "txt_in_linear_1": "txtmlp_1",
        "txt_in_linear_2": "txtmlp_3",
        "text_fusion_projector": "txtfusion_projector",
        "final_layer_linear": "last_linear",
    },
)
_Z_LAYERS = {"attention_to_out_0": "attention_out"}
_Z_PARTS = _parts("attention_qkv", "attention_to_q", "attention_to_k", "attention_to_v")
_Z_IMAGE = Spelling(
    re.compile(r"(?:layers|context_refiner|noise_refiner)_\d+_attention_(?:qkv|out)$"),
    tuple(
        Blocks(name, name, _Z_LAYERS, _Z_PARTS)
        for name in ("layers", "context_refiner", "noise_refiner")
    ),
    {
        "all_x_embedder_2-1": "x_embedder",
        "all_final_layer_2-1_linear": "final_layer_linear",
        "all_final_layer_2-1_adaLN_modulation_1": "final_layer_adaLN_modulation_1",
    },
)
_SPELLINGS = (_FLUX, _SD3, _KREA_2, _Z_IMAGE)
_BLOCK = re.compile(r"(\w*?[a-z])_(\d+)_(\w+)")


def spelt(names: Collection[str]) -> dict[str, Spelt]:
    """What is to be known of the layers of one model, those alone that are written as diffusers
    does.

    names: without prefixes, of all adapters together: without an original's name among them nothing
    is to be joined, and each stays as it is.
    """
    spelling = next((s for s in _SPELLINGS if any(map(s.native.match, names))), None)
    if spelling is None:
        return {}
    found = {name: _of(name, spelling) for name in names}
    return {name: one for name, one in found.items() if one is not None}


def _of(name: str, spelling: Spelling) -> Spelt | None:
    if name in spelling.same:
        return Spelt(spelling.same[name], None)
    if name in spelling.within:
        return Spelt(None, spelling.within[name])
    match = _BLOCK.fullmatch(name)
    for blocks in spelling.blocks if match else ():
        if blocks.theirs == match[1]:
            beginning = f"{blocks.ours}_{match[2]}_"
            if match[3] in blocks.same:
                return Spelt(beginning + blocks.same[match[3]], None)
            if match[3] in blocks.within:
                return Spelt(None, beginning + blocks.within[match[3]])
    return None
