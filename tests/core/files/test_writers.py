"""The names that writers of SDXL and KOALA adapters give: one layer, one name, in every tool."""

import random

import pytest
import torch
from peers import family, layers
from safetensors.torch import save_file

from lora2_core.backbones.diffusers_unet import DiffusersUNet
from lora2_core.errors import LoRA2Error
from lora2_core.files.adapter_file import components
from lora2_core.files.families import KOALA, SDXL
from lora2_core.files.header import read_header
from lora2_core.files.module_names import architecture, canonical_names, kohya_name, named
from lora2_core.rank_tools import Cut, Ingredient, compress, expand, merge, open_adapter
from lora2_core.ranks import rank_map
from lora2_core.ranks.rank_report import report, report_from_header

D = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
S = "input_blocks.4.1.transformer_blocks.0.attn1.to_q"
KOHYA = f"lora_unet_{S.replace('.', '_')}"
TEXT = "text_model.encoder.layers.3.self_attn.q_proj"
FLAT = TEXT.replace(".", "_")
SDXL_ALONE = {"lora_unet_input_blocks_8_1_transformer_blocks_9_attn1_to_q": (1280, 1280)}

UNET_STYLES = {
    "kohya": KOHYA,
    "lycoris' wrapper": f"lycoris_{D.replace('.', '_')}",
    "onetrainer legacy": f"lora_unet_{D.replace('.', '_')}",
    "onetrainer diffusers": f"unet.{D}",
    "onetrainer original": S,
    "onetrainer comfy": f"diffusion_model.{S}",
    "save_lora_adapter": D,
    "peft": f"base_model.model.{D}",
    "doubled": f"unet.unet.{D}",
    "nested": f"unet.base_model.model.{D}",
    "nested the other way": f"base_model.model.unet.{D}",
    "half dots": f"unet.down_blocks_1_attentions.0.{D.split('.', 4)[4]}",
    "half underscores": f"lora_unet_{D}",
    "trailing underscore": f"lora_unet_{S.replace('.', '_')}_",
    "old processors": f"unet.{D.replace('.to_q', '.processor.to_q')}",
    "a checkpoint's prefix": f"model.diffusion_model.{S}",
}
FIRST_STYLES = {
    "kohya": f"lora_te1_{FLAT}",
    "of one encoder": f"lora_te_{FLAT}",
    "diffusers": f"text_encoder.{TEXT}",
    "without text_model": f"text_encoder.{TEXT.removeprefix('text_model.')}",
    "comfy": f"text_encoders.clip_l.transformer.{TEXT}",
    "peft": f"base_model.model.{TEXT}",
    "nested": f"text_encoder.base_model.model.{TEXT}",
    "lycoris": f"lycoris_{FLAT}",
    "trailing underscore": f"lora_te1_{FLAT}_",
}
SECOND_STYLES = {
    "kohya": f"lora_te2_{FLAT}",
    "diffusers": f"text_encoder_2.{TEXT}",
    "comfy": f"text_encoders.clip_g.transformer.{TEXT}",
    "peft": f"base_model.model.{TEXT}",
    "half dots": f"text_encoder_2.{FLAT}",
}


def pairs(shapes, seed=0, rank=2, ends=("lora_down", "lora_up")):
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, (out, *rest) in shapes.items():
        ones = [1] * (len(rest) - 1)
        state[f"{name}.{ends[0]}.weight"] = torch.randn(rank, *rest, generator=generator)
        state[f"{name}.{ends[1]}.weight"] = torch.randn(out, rank, *ones, generator=generator)
    return state


@pytest.mark.parametrize("style", UNET_STYLES)
def test_a_layer_of_the_unet_has_one_name(style):
    name = UNET_STYLES[style]
    assert canonical_names(SDXL_ALONE | {name: (640, 640)})[name] == KOHYA


@pytest.mark.parametrize("style", FIRST_STYLES)
def test_a_layer_of_the_first_text_encoder_has_one_name(style):
    name = FIRST_STYLES[style]
    assert canonical_names(SDXL_ALONE | {name: (768, 768)})[name] == f"lora_te1_{FLAT}"


@pytest.mark.parametrize("style", SECOND_STYLES)
def test_a_layer_of_the_second_text_encoder_has_one_name(style):
    name = SECOND_STYLES[style]
    assert canonical_names(SDXL_ALONE | {name: (1280, 1280)})[name] == f"lora_te2_{FLAT}"


@pytest.mark.parametrize("prefix", ["lora_te2_", "text_encoder_2.", "base_model.model."])
def test_the_projection_of_the_second_encoder(prefix):
    whole = prefix.startswith("base")
    name = f"{prefix}text_projection"
    found = canonical_names(SDXL_ALONE | {name: (1280, 1280)})[name]
    # PEFT's folder of a projection alone does not say whose it is
    assert found == ("lora_unet_text_projection" if whole else "lora_te2_text_projection")


@pytest.mark.parametrize(
    "styles, shape",
    [(UNET_STYLES, (640, 640)), (FIRST_STYLES, (768, 768)), (SECOND_STYLES, (1280, 1280))],
)
def test_no_two_writers_make_two_layers_of_one_in_a_merge(styles, shape):
    """Also where nothing tells the base model: all of them must still agree."""
    states = [pairs({name: shape}, seed) for seed, name in enumerate(styles.values())]
    adapters = [open_adapter(state) for state in states]
    merged = components(merge([Ingredient(one, 0.5) for one in adapters], Cut(rank=60)).state)
    assert len(merged) == 1
    expected = sum(0.5 * f.delta() for one in states for f in components(one).values())
    found = next(iter(merged.values())).delta()
    assert (found - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("base", ["SDXL", "KOALA"])
@pytest.mark.parametrize("prefix", ["lycoris_", "", "unet.unet.", "base_model.model.unet."])
def test_a_whole_network_in_every_prefix(base, prefix):
    unet = family(base)
    names = DiffusersUNet(unet)
    spell = str if prefix != "lycoris_" else lambda name: name.replace(".", "_")
    shapes = {prefix + spell(name): shape for name, shape in layers(unet).items()}
    found = canonical_names(shapes)
    assert architecture(shapes) == base
    for name in layers(unet):
        assert found[prefix + spell(name)] == kohya_name(names.module_name(name))


PREFIXES = ("lora_unet_", "lycoris_", "unet.", "diffusion_model.", "base_model.model.", "model.")
MIXED = {
    D: (KOHYA, (640, 640)),
    S: (KOHYA, (640, 640)),
    "down_blocks.1.resnets.0.conv1": ("lora_unet_input_blocks_4_0_in_layers_2", (640, 320, 3, 3)),
    "down_blocks.0.downsamplers.0.conv": ("lora_unet_input_blocks_3_0_op", (320, 320, 3, 3)),
    "up_blocks.0.upsamplers.0.conv": ("lora_unet_output_blocks_2_2_conv", (1280, 1280, 3, 3)),
    "mid_block.attentions.0.proj_in": ("lora_unet_middle_block_1_proj_in", (1280, 1280)),
    "time_embedding.linear_1": ("lora_unet_time_embed_0", (1280, 320)),
    "conv_out": ("lora_unet_out_2", (4, 320, 3, 3)),
    "out.2": ("lora_unet_out_2", (4, 320, 3, 3)),
}


@pytest.mark.parametrize("layer", MIXED)
def test_prefixes_in_any_order_and_half_dots_half_underscores(layer):
    expected, shape = MIXED[layer]
    draw = random.Random(layer)
    for _ in range(200):
        name = "".join(draw.choices(PREFIXES, k=draw.randrange(4))) + layer
        name = "".join("_" if c == "." and draw.random() < 0.5 else c for c in name)
        name += "_" * draw.randrange(3)
        assert canonical_names(SDXL_ALONE | {name: shape})[name] == expected, name


@pytest.mark.parametrize(
    ("name", "shape", "base"),
    [
        ("lora_unet_input_blocks_5_1_transformer_blocks_0_attn2_to_k", (640, 2048), "SDXL"),
        ("lora_unet_input_blocks_5_1_transformer_blocks_0_attn2_to_k", (1280, 2048), "KOALA"),
        ("lora_unet_output_blocks_2_1_transformer_blocks_0_attn1_to_q", (1280, 1280), "SDXL"),
        ("lora_unet_output_blocks_2_1_transformer_blocks_0_attn2_to_v", (640, 2048), "KOALA"),
        ("lora_unet_output_blocks_2_1_transformer_blocks_0_ff_net_0_proj", (5120, 640), "KOALA"),
        ("lora_unet_output_blocks_2_1_transformer_blocks_1_ff_net_2", (640, 2560), "KOALA"),
        ("lora_unet_input_blocks_3_1_proj_in", (640, 640), "KOALA"),
        ("lora_unet_middle_block_1_transformer_blocks_9_attn1_to_q", (1280, 1280), "SDXL"),
        ("lora_unet_input_blocks_8_1_transformer_blocks_9_attn1_to_q", (1280, 1280), "SDXL"),
        ("unet.down_blocks.2.attentions.1.transformer_blocks.3.attn2.to_k", (1280, 2048), "SDXL"),
        ("unet.up_blocks.0.attentions.0.transformer_blocks.7.attn2.to_k", (1280, 2048), "SDXL"),
        ("unet.mid_block.attentions.0.transformer_blocks.2.attn2.to_k", (1280, 2048), "SDXL"),
        ("unet.up_blocks.0.attentions.0.transformer_blocks.2.attn2.to_k", (1280, 2048), None),
        ("lora_unet_output_blocks_0_1_transformer_blocks_2_attn2_to_k", (1280, 2048), None),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", (320, 768),
         "Stable Diffusion 1"),
        ("lora_unet_output_blocks_11_1_transformer_blocks_0_attn2_to_k", (320, 1024),
         "Stable Diffusion 2"),
        ("lora_unet_blocks_0_cross_attn_k_proj", (2048, 1024), "Anima"),
        ("lora_unet_blocks_0_attn_wq", (6144, 6144), "Krea 2"),
        ("transformer.transformer_blocks.0.img_mlp.net.0.proj", (12288, 3072), "Qwen-Image"),
    ],
)  # fmt: skip
def test_one_layer_tells_the_family_where_it_can(name, shape, base):
    assert architecture({name: shape}) == base


def test_a_file_of_one_layer_merges_with_a_whole_one():
    """Width tells SDXL, not which blocks happen to be there."""
    name = "lora_unet_input_blocks_5_1_transformer_blocks_0_attn2_to_k"
    one = open_adapter(pairs({name: (640, 2048)}))
    whole = open_adapter(pairs(SDXL_ALONE | {name: (640, 2048)}, 1))
    assert set(components(merge([Ingredient(one), Ingredient(whole)]).state)) == {
        name, *SDXL_ALONE
    }  # fmt: skip


def test_what_one_adapter_tells_is_known_of_the_other():
    """Alone, the first could be SDXL's block 4 or KOALA's block 3."""
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    koala = "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q"
    one, other = pairs({name: (640, 640)}), pairs({koala: (640, 640)}, 1)
    assert open_adapter(one).assumed
    merged = merge([Ingredient(open_adapter(one)), Ingredient(open_adapter(other))])
    assert set(components(merged.state)) == {koala}
    reports = [report_of(one), report_of(other)]
    assert set(rank_map.of_report(rank_map.averaged(reports))) == {koala}


def report_of(state):
    from lora2_core.files.adapter_file import LoraState

    return report(LoraState(state))


def test_the_base_model_can_be_given():
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    state = pairs({name: (640, 640)})
    adapter = open_adapter(state, base=KOALA.name)
    assert list(adapter.components) == [KOHYA.replace("_4_1_", "_3_1_")] and not adapter.assumed
    assert list(open_adapter(state, base=SDXL.name).components) == [KOHYA]
    deep = name.replace("blocks.0.attn", "blocks.9.attn").replace("down_blocks.1", "down_blocks.2")
    with pytest.raises(LoRA2Error, match=r"given as KOALA.*layers of SDXL.*leave"):
        open_adapter(pairs({deep: (1280, 1280)}), base=KOALA.name)


def test_a_layer_that_stands_there_in_two_styles_is_refused_by_both_names(tmp_path):
    state = pairs({f"unet.{D}": (640, 640), f"lycoris_{D.replace('.', '_')}": (640, 640)})
    with pytest.raises(LoRA2Error, match=r"unet\.down_blocks.*lycoris_down.*same layer"):
        open_adapter(state)


def test_the_same_layers_of_another_model_meet_in_a_merge():
    flat = "transformer_blocks_0_attn_to_q"
    styles = ["transformer.transformer_blocks.0.attn.to_q", f"lora_unet_{flat}", f"lycoris_{flat}",
              "diffusion_model.transformer_blocks.0.attn.to_q", f"lora_transformer_{flat}",
              "transformer_blocks.0.attn.to_q"]  # fmt: skip
    names = named([{style: (8, 8)} for style in styles]).names
    assert {name for one in names for name in one.values()} == {styles[0]}


def test_every_tool_and_report_names_it_alike(tmp_path):
    for style in UNET_STYLES.values():
        path = tmp_path / "x.safetensors"
        save_file(pairs(SDXL_ALONE | {style: (640, 640)}), path)
        adapter = open_adapter(path)
        assert set(adapter.components) == {KOHYA, *SDXL_ALONE}
        assert KOHYA in components(compress(adapter, Cut(rank=1)).state)
        assert KOHYA in components(dict(expand(adapter, 4)))
        rows = report_from_header(read_header(path))["components"]
        [row] = [row for row in rows if row["name"] == style]
        assert (row["block"], row["column"]) == ("down 4", "self q")
        assert KOHYA in rank_map.of_report(report_from_header(read_header(path)))
