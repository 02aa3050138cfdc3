"""The rank report: the same from an adapter and from a file's header, whatever the file says."""

import json

import pytest
import torch

from lora2_core.errors import LoRA2Error
from lora2_core.files.adapter_file import LoraState, pack, read
from lora2_core.files.header import read_header
from lora2_core.files.metadata import training_metadata
from lora2_core.files.writing import write
from lora2_core.rank_tools import Ingredient, merge, open_adapter
from lora2_core.ranks import rank_map
from lora2_core.ranks.rank_report import report, report_from_header

LAYERS = {"a.q": (1, 8, (6,)), "a.k": (3, 4, (10,)), "b.conv": (4, 6, (2, 3, 3)), "c": (1, 2, (2,))}
RANKS = {"a.q": (2.0, 1), "a.k": (0.7, 3), "b.conv": (0.5, 4), "c": (None, 1)}


@pytest.fixture
def state() -> LoraState:
    folded = {
        name: (torch.randn(rank, *n), torch.randn(m, rank, *(1 for _ in n[1:])))
        for name, (rank, m, n) in LAYERS.items()
    }
    metadata = training_metadata(method="lora2", settings={"quantile": 0.9}, ranks=RANKS)
    return pack(folded, metadata=metadata)


def test_a_report_counts_what_is_there(state):
    found = report(state)
    rows = {row["name"]: row for row in found["components"]}
    assert list(rows) == ["lora_unet_a_q", "lora_unet_a_k", "lora_unet_b_conv", "lora_unet_c"]
    assert rows["lora_unet_b_conv"] == {
        "name": "lora_unet_b_conv",
        "section": "other",
        "block": "other",
        "row": "lora_unet_b_conv",
        "column": "other",
        "rank": 4,
        "shape": [6, 2, 3, 3],
        "alpha": 1.0,
        "nu": 0.5,
        "bytes": 4 * (4 * (6 + 18) + 1),
    }
    assert rows["lora_unet_c"]["nu"] is None
    parameters = 1 * 14 + 3 * 14 + 4 * 24 + 1 * 4
    assert found["totals"] == {
        "components": 4,
        "bytes": 4 * (parameters + 4),
        "parameters": parameters,
        "mean_rank": 9 / 4,
        "weighted_mean_rank": parameters / (14 + 14 + 24 + 4),
        "min_rank": 1,
        "max_rank": 4,
        "rank_one": 2,
        "rank_zero": 0,
    }
    assert (found["method"], found["format"]) == ("lora2", 1)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_header_alone_tells_the_same(state, tmp_path, precision):
    path = write(state, tmp_path / "a.safetensors", precision=precision)
    from_file, from_header = report(read(path)), report_from_header(read_header(path))
    assert {row["alpha"] for row in from_file["components"]} == {1.0}
    assert {row["alpha"] for row in from_header["components"]} == {None}
    for row in from_file["components"]:
        row["alpha"] = None
    assert from_header == from_file
    half = {"fp32": 1, "fp16": 2}[precision]
    assert from_header["totals"]["bytes"] == 4 * (report(state)["totals"]["parameters"] // half + 4)


def test_nu_of_another_rank_is_not_shown(state):
    ranks = RANKS | {"a.k": (0.7, 5)}
    state.metadata = training_metadata(method="lora2", settings={}, ranks=ranks)
    assert [row["nu"] for row in report(state)["components"]] == [2.0, None, 0.5, None]


HOSTILE = {
    "empty": "",
    "cut": '{"format_version":1,"method":"lo',
    "deep": '{"a":' * 50_000,
    "a list": "[1]",
    "a long number": "9" * 5000,
    "another version": '{"format_version":2,"method":"x","components":{"lora_unet_c":[1,1]}}',
    "components are a list": '{"format_version":1,"components":["lora_unet_c"]}',
    "pairs are objects": '{"format_version":1,"components":{"lora_unet_c":{"0":1}}}',
    "pairs are short": '{"format_version":1,"components":{"lora_unet_c":[1]}}',
    "rank is text": '{"format_version":1,"components":{"lora_unet_c":[1,"1"]}}',
    "rank is true": '{"format_version":1,"components":{"lora_unet_c":[1,true]}}',
    "nu is NaN": '{"format_version":1,"components":{"lora_unet_c":[NaN,1]}}',
    "nu is infinite": '{"format_version":1,"components":{"lora_unet_c":[1e999,1]}}',
    "nu is negative": '{"format_version":1,"components":{"lora_unet_c":[-1,1]}}',
    "nu is text": '{"format_version":1,"components":{"lora_unet_c":["<b>",1]}}',
    "nu is huge": '{"format_version":1,"components":{"lora_unet_c":[1' + "0" * 400 + ",1]}}",
    "method is a number": '{"format_version":1,"method":7}',
    "method is long": '{"format_version":1,"method":"' + "x" * 65 + '"}',
    "very long": '{"format_version":1,"method":"x","pad":"' + "x" * 4_000_000 + '"}',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_note_that_lies_is_left_out(state, text):
    state.metadata = {"lora2": text}
    found = report(state)
    assert found["method"] is None
    assert [row["nu"] for row in found["components"]] == [None] * 4
    json.dumps(found, allow_nan=False)


def test_an_honest_note_beside_them_is_read(state):
    """Shows that the hostile notes above fail for what they hold, not for their form."""
    state.metadata = {
        "lora2": '{"format_version":1,"method":"x","components":{"lora_unet_c":[1,1]}}'
    }
    found = report(state)
    assert found["method"] == "x"
    assert [row["nu"] for row in found["components"]] == [None, None, None, 1]


def test_files_without_notes_are_reported_too(tmp_path):
    tensors = {
        "lora_unet_a.lora_down.weight": torch.ones(2, 3, 1, 1),
        "lora_unet_a.lora_mid.weight": torch.ones(2, 2, 3, 3),
        "lora_unet_a.lora_up.weight": torch.ones(5, 2, 1, 1),
    }
    row = report(LoraState(tensors))["components"][0]
    assert (row["rank"], row["shape"], row["alpha"], row["nu"]) == (2, [5, 3, 3, 3], None, None)
    assert row["bytes"] == 4 * (6 + 36 + 10)


def test_a_file_that_is_no_lora_is_named(tmp_path):
    path = write(
        LoraState({"a.hada_w1_a": torch.ones(2, 2)}), tmp_path / "a.safetensors", precision="fp32"
    )
    with pytest.raises(LoRA2Error, match="LoHa"):
        report_from_header(read_header(path))


def test_every_style_of_names_has_its_place_in_the_network():
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_out.0"
    state = LoraState(
        {f"{name}.lora_A.weight": torch.ones(2, 8), f"{name}.lora_B.weight": torch.ones(8, 2)}
    )
    [row] = report(state)["components"]
    assert row["name"] == name
    assert (row["section"], row["block"]) == ("down", "down 4")
    assert (row["row"], row["column"]) == ("down 4 · 1", "cross out")


def test_one_layer_under_two_names_is_reported_all_the_same():
    names = ("unet.conv_in", "lora_unet_conv_in")
    state = LoraState()
    for name in names:
        state[f"{name}.lora_A.weight"] = torch.ones(2, 8)
        state[f"{name}.lora_B.weight"] = torch.ones(8, 2)
    assert [row["name"] for row in report(state)["components"]] == list(names)


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_input_blocks_{}_1_proj_in",
        "lora_unet_input_blocks_4_1_transformer_blocks_{}_attn1_to_q",
        "unet.down_blocks.{}.attentions.0.proj_in",
        "lora_te1_text_model_encoder_layers_{}_mlp_fc1",
        "transformer.transformer_blocks.{}.attn.to_q",
    ],
)
def test_numbers_of_thousands_of_digits_are_names_like_others(name):
    name = name.format("9" * 5000)
    state = LoraState({f"{name}.lora_A.weight": torch.ones(2, 8),
                       f"{name}.lora_B.weight": torch.ones(8, 2)})  # fmt: skip
    assert [row["rank"] for row in report(state)["components"]] == [2]
    assert len(merge([Ingredient(open_adapter(state))]).state) > 1
    assert rank_map.averaged([report(state)])["totals"]["components"] == 1


def test_a_name_of_nothing_is_a_name_like_others():
    for name in ("", "_", "."):
        row = {"name": name, "rank": 1, "shape": [3, 4]}
        assert list(rank_map.of_report({"components": [row]}).values()) == [1]
