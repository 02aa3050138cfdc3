"""Rows and columns of a network's layers."""

import pytest
from unet_shapes import KOALA_700M, SDXL, unet_shapes

from lora2_core.files.module_names import kohya_name
from lora2_core.ranks.placement import COLUMNS, SECTIONS, Place, order, outline, place, places

STEM = "lora_unet_input_blocks_4_1_transformer_blocks_1_"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"{STEM}attn1_to_q", ("down", "down 4", "down 4 · 1", "self q")),
        (f"{STEM}attn2_to_out_0", ("down", "down 4", "down 4 · 1", "cross out")),
        (f"{STEM}ff_net_0_proj", ("down", "down 4", "down 4 · 1", "ff in")),
        ("lora_unet_input_blocks_4_1_proj_in", ("down", "down 4", "down 4", "proj in")),
        ("lora_unet_output_blocks_2_2_conv", ("up", "up 2", "up 2", "resize")),
        ("lora_unet_input_blocks_3_0_op", ("down", "down 3", "down 3", "resize")),
        ("lora_unet_middle_block_0_in_layers_2", ("middle", "middle", "middle", "conv 1")),
        (
            "lora_unet_middle_block_1_transformer_blocks_9_attn2_to_k",
            ("middle", "middle", "middle · 9", "cross k"),
        ),
        (
            "lora_te2_text_model_encoder_layers_31_mlp_fc2",
            ("text 2", "text 2", "text 2 · 31", "ff out"),
        ),
        (
            "lora_te_text_model_encoder_layers_3_self_attn_q_proj",
            ("text 1", "text 1", "text 1 · 3", "self q"),
        ),
        ("something <b>else</b>", ("other", "other", "something <b>else</b>", "other")),
    ],
)
def test_a_layer_has_its_place(name, expected):
    assert place(name) == Place(*expected)


@pytest.mark.parametrize("config", [SDXL, KOALA_700M])
def test_no_layer_of_a_real_unet_shares_a_cell(config):
    names = [
        kohya_name(key.removesuffix(".weight"))
        for key, shape in unet_shapes(config).items()
        if key.endswith(".weight") and len(shape) in (2, 4)
    ]
    places = [place(name) for name in names]
    attention = [p for p in places if p.column.startswith(("self", "cross", "ff"))]
    assert len({(p.row, p.column) for p in attention}) == len(attention)
    assert {p.column for p in places} <= set(COLUMNS)
    rows = list(dict.fromkeys(p.row for p in sorted(attention, key=order)))
    expected = [p.row for p in attention]  # the file's order is the forward order
    assert rows == list(dict.fromkeys(expected))


def test_sections_come_in_forward_order():
    names = [
        "lora_unet_output_blocks_10_1_proj_in",
        "lora_unet_output_blocks_9_1_proj_in",
        "other",
        "lora_unet_middle_block_1_proj_in",
        "lora_unet_input_blocks_4_1_proj_in",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
    ]
    found = [p.block for p in sorted(map(place, names), key=order)]
    assert found == ["text 1", "down 4", "middle", "up 9", "up 10", "other"]
    assert SECTIONS[-1] == "other"


def test_another_architecture_has_rows_by_its_first_number():
    names = [
        "lora_unet_double_blocks_10_img_attn_qkv",
        "lora_unet_double_blocks_2_img_attn_qkv",
        "lora_unet_single_blocks_2_linear1",
        "blocks.3.ffn.0",
    ]
    found = outline(places({name: name for name in names}).values())
    assert [line["row"] for line in found["rows"]] == [
        "blocks.3", "double_blocks_2", "double_blocks_10", "single_blocks_2",
    ]  # fmt: skip
    assert found["columns"] == ["ffn 0", "img attn qkv", "linear1"]


def test_what_cannot_be_ordered_has_a_row_of_its_own():
    names = [f"x_1_{letter * 3}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    found = outline(places({name: name for name in names}).values())
    assert found["columns"] == ["other"] and len(found["rows"]) == 26
    for odd in ("", "_", "x" * 100_000, "1_2_3", "\n_1_\u202e"):
        assert places({"key": odd})["key"].section == "other"


def test_the_outline_does_not_depend_on_the_order_of_the_file():
    names = [kohya_name(k.removesuffix(".weight")) for k in unet_shapes(SDXL) if ".attn" in k]
    first = outline(places({name: name for name in names}).values())
    assert outline(places({name: name for name in reversed(names)}).values()) == first
