"""Transformers whose layers have two spellings: one layer is written once, or refused by name."""

from itertools import permutations

import pytest
import torch

from lora2_core.errors import LoRA2Error
from lora2_core.files.adapter_file import components
from lora2_core.files.module_names import canonical_names, named
from lora2_core.rank_tools import Ingredient, merge, open_adapter
from lora2_core.ranks import rank_map
from lora2_core.ranks.rank_report import report

# diffusers' spelling → the original's, without prefixes
SAME = {
    "Flux": {
        "transformer_blocks.3.attn.to_out.0": "double_blocks.3.img_attn.proj",
        "transformer_blocks.3.attn.to_add_out": "double_blocks.3.txt_attn.proj",
        "transformer_blocks.3.norm1.linear": "double_blocks.3.img_mod.lin",
        "transformer_blocks.3.norm1_context.linear": "double_blocks.3.txt_mod.lin",
        "transformer_blocks.3.ff.net.0.proj": "double_blocks.3.img_mlp.0",
        "transformer_blocks.3.ff_context.net.2": "double_blocks.3.txt_mlp.2",
        "single_transformer_blocks.12.norm.linear": "single_blocks.12.modulation.lin",
        "single_transformer_blocks.12.proj_out": "single_blocks.12.linear2",
        "x_embedder": "img_in",
        "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    },
    "Krea 2": {
        "transformer_blocks.3.attn.to_q": "blocks.3.attn.wq",
        "transformer_blocks.3.attn.to_out.0": "blocks.3.attn.wo",
        "transformer_blocks.3.attn.to_out": "blocks.3.attn.wo",
        "transformer_blocks.3.ff.gate": "blocks.3.mlp.gate",
        "text_fusion.refiner_blocks.1.attn.to_k": "txtfusion.refiner_blocks.1.attn.wk",
        "txt_in.linear_1": "txtmlp.1",
    },
    "Stable Diffusion 3": {
        "transformer_blocks.3.attn.to_out.0": "joint_blocks.3.x_block.attn.proj",
        "transformer_blocks.3.ff_context.net.2": "joint_blocks.3.context_block.mlp.fc2",
    },
    "Z-Image": {"layers.3.attention.to_out.0": "layers.3.attention.out"},
}
APART = {
    "transformer_blocks.3.attn.to_k": "double_blocks.3.img_attn.qkv",
    "transformer_blocks.3.attn.add_q_proj": "double_blocks.3.txt_attn.qkv",
    "single_transformer_blocks.12.attn.to_v": "single_blocks.12.linear1",
    "single_transformer_blocks.12.proj_mlp": "single_blocks.12.linear1",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "layers.3.attention.to_q": "layers.3.attention.qkv",
}
# a layer by which each family is known, in its original spelling
NATIVE = {
    "Flux": "lora_unet_double_blocks_0_img_mlp_0",
    "Krea 2": "lora_unet_blocks_0_attn_wv",
    "Stable Diffusion 3": "lora_unet_joint_blocks_0_x_block_mlp_fc1",
    "Z-Image": "lora_unet_layers_0_attention_out",
}
DIFFUSERS = ("transformer.{}", "lora_transformer_{}", "lycoris_{}", "{}", "base_model.model.{}",
             "transformer.transformer.{}", "base_model.model.transformer.{}")  # fmt: skip
ORIGINAL = ("lora_unet_{}", "diffusion_model.{}", "{}", "lycoris_{}", "model.diffusion_model.{}")


def spell(style: str, name: str) -> str:
    return style.format(name if "." in style or style == "{}" else name.replace(".", "_"))


def adapter(names, seed):
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for name in names:
        state[f"{name}.lora_A.weight"] = torch.randn(2, 8, generator=draw)
        state[f"{name}.lora_B.weight"] = torch.randn(8, 2, generator=draw)
    return state


@pytest.mark.parametrize("family", SAME)
def test_a_layer_of_either_spelling_is_written_once(family):
    for theirs, ours in SAME[family].items():
        written = f"lora_unet_{ours.replace('.', '_')}"
        for number, style in enumerate(DIFFUSERS):
            original = ORIGINAL[number % len(ORIGINAL)]
            both = [{spell(style, theirs): (8, 8)},
                    {spell(original, ours): (8, 8), NATIVE[family]: (8, 8)}]  # fmt: skip
            for adapters in permutations(both):
                names = {name for one in named(adapters).names for name in one.values()}
                assert len(names) == (1 if written == NATIVE[family] else 2)
                assert written in names


@pytest.mark.parametrize("family", SAME)
def test_both_spellings_merge_to_the_sum(family):
    theirs, ours = next(iter(SAME[family].items()))
    written = f"lora_unet_{ours.replace('.', '_')}"
    states = [adapter([f"transformer.{theirs}"], 1), adapter([written, NATIVE[family]], 2)]
    expected = sum(next(iter(components(one).values())).delta() for one in states)
    for order in permutations(states):
        merged = components(merge([Ingredient(open_adapter(one)) for one in order]).state)
        assert set(merged) == {written, NATIVE[family]}
        assert torch.allclose(merged[written].delta(), expected, atol=1e-5)


@pytest.mark.parametrize(("part", "whole"), APART.items())
def test_a_part_and_the_whole_are_refused_by_name(part, whole):
    theirs, ours = f"transformer.{part}", f"diffusion_model.{whole}"
    states = [adapter([theirs], 1), adapter([ours, NATIVE["Flux"] if "layers.3" not in part else
                                             NATIVE["Z-Image"]], 2)]  # fmt: skip
    adapters = [open_adapter(one) for one in states]
    said = f"{part}.*{whole.replace('.', '_')}.*same weights.*one of the two forms"
    with pytest.raises(LoRA2Error, match=said):
        merge([Ingredient(one) for one in adapters])
    with pytest.raises(LoRA2Error, match=said):
        rank_map.averaged([report_of(one) for one in states])
    with pytest.raises(LoRA2Error, match=said):
        open_adapter(states[0] | states[1])


def report_of(state):
    from lora2_core.files.adapter_file import LoraState

    return report(LoraState(state))


def test_other_blocks_of_the_two_forms_can_be_merged():
    states = [adapter(["transformer.transformer_blocks.3.attn.to_k"], 1),
              adapter(["lora_unet_double_blocks_4_img_attn_qkv"], 2)]  # fmt: skip
    merged = components(merge([Ingredient(open_adapter(one)) for one in states]).state)
    assert len(merged) == 2


def test_another_model_is_another_model():
    """Blocks of Qwen-Image have the names that Flux' have in diffusers."""
    qwen = [f"transformer.transformer_blocks.3.{layer}" for layer in ("attn.to_k", "img_mlp.net.2")]
    states = [adapter(qwen, 1), adapter(["lora_unet_double_blocks_3_img_attn_qkv"], 2)]
    with pytest.raises(LoRA2Error, match=r"different models.*Qwen-Image.*Flux"):
        merge([Ingredient(open_adapter(one)) for one in states])


def test_one_spelling_alone_stays_as_it_is():
    for names in (SAME["Flux"], APART):
        shapes = {f"transformer.{name}": (8, 8) for name in names if "norm_out" not in name}
        assert canonical_names(shapes) == {name: name for name in shapes}


def test_the_second_text_encoder_of_flux():
    layer = "encoder.block.0.layer.0.SelfAttention.q"
    flat = layer.replace(".", "_")
    styles = [f"lora_te2_{flat}", f"text_encoder_2.{layer}", f"lora_te3_{flat}",
              f"text_encoders.t5xxl.transformer.{layer}"]  # fmt: skip
    names = named([{style: (8, 8)} for style in styles]).names
    assert {name for one in names for name in one.values()} == {styles[0]}
