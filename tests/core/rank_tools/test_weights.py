"""Weights of a merge: below 0, of 0, by attention and by block."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import error

from lora2_core.errors import LoRA2Error
from lora2_core.files.adapter_file import LoraState, components
from lora2_core.files.writing import write
from lora2_core.rank_tools import Cut, Ingredient, merge, open_adapter
from lora2_core.rank_tools.adapters import factorised
from lora2_core.rank_tools.blocks import parse_blocks
from lora2_core.rank_tools.merge import NothingLeft

STEM = "lora_unet_{}_1_transformer_blocks_0_{}"
LAYERS = {
    STEM.format("input_blocks_4", "attn1_to_q"): (24, 24),
    STEM.format("input_blocks_4", "attn2_to_k"): (24, 2048),
    STEM.format("middle_block", "attn1_to_v"): (24, 24),
    STEM.format("output_blocks_1", "ff_net_2"): (24, 40),
    "lora_te1_text_model_encoder_layers_0_mlp_fc1": (20, 16),
}


def opened(seed, rank=4, layers=LAYERS, words=""):
    generator = torch.Generator().manual_seed(seed)
    state = LoraState(None, {"modelspec.trigger_phrase": words} if words else {})
    for name, (out, inner) in layers.items():
        state[f"{name}.lora_down.weight"] = torch.randn(rank, inner, generator=generator)
        state[f"{name}.lora_up.weight"] = torch.randn(out, rank, generator=generator)
        state[f"{name}.alpha"] = torch.tensor(float(rank))
    return open_adapter(state, f"adapter {seed}")


def deltas(state):
    return {name: factors.delta() for name, factors in components(state).items()}


A, B = opened(0), opened(1, 6)
ONE, TWO = deltas(A.state), deltas(B.state)

weights = st.floats(-3, 3).map(lambda x: round(x, 1))
strengths = st.dictionaries(
    st.sampled_from(["down", "down4", "middle", "up", "up1", "up2"]), weights, max_size=4
)


def wanted(name, weight, own, cross, blocks):
    """The weight of a component, read from its name alone."""
    side = {"input": "down", "middle": "middle", "output": "up"}.get(name.split("_")[2])
    number = {"input_blocks_4": "4", "output_blocks_1": "1"}
    number = next((n for block, n in number.items() if block in name), "")
    factor = blocks.get(f"{side}{number}", blocks.get(side, 1)) if side else 1
    return weight * factor * (own if "attn1" in name else cross if "attn2" in name else 1)


@settings(max_examples=40, deadline=None)
@given(weights, weights, weights, strengths, weights)
def test_any_weights_give_the_sum_and_no_layer_of_zeros(first, own, cross, blocks, second):
    text = ", ".join(f"{block}={strength}" for block, strength in blocks.items())
    given_ = [Ingredient(A, first, own, cross, parse_blocks(text)), Ingredient(B, second)]
    expected = {n: wanted(n, first, own, cross, blocks) for n in LAYERS}
    if not second and not any(expected.values()):
        with pytest.raises(NothingLeft, match=r"every weight is 0 \(adapter 0 × "):
            merge(given_)
        return
    found = merge(given_).state
    there = [name for name in LAYERS if expected[name] or second]
    assert list(deltas(found)) == there
    for name, delta in deltas(found).items():
        sum_ = expected[name] * ONE[name] + second * TWO[name]
        assert (delta - sum_).norm() <= 1e-5 * (1 + sum_.norm())
        rank = 4 * bool(expected[name]) + 6 * bool(second)
        assert components(found)[name].rank == min(rank, *LAYERS[name])


@pytest.mark.parametrize("how", ["svd", "prefix"])
@pytest.mark.parametrize("cut", [{"rank": 3}, {"energy": 0.8}, {"megabytes": 0.06}])
def test_the_sign_of_a_merge_changes_no_share_and_no_rank(tmp_path, how, cut):
    limit = Cut(how=how, **cut)
    plain = merge([Ingredient(A, 0.7), Ingredient(B, -0.5)], limit)
    turned = merge([Ingredient(A, -0.7), Ingredient(B, 0.5)], limit)
    assert [r.after for r in plain.rows] == [r.after for r in turned.rows]
    assert [r.retained for r in plain.rows] == pytest.approx([r.retained for r in turned.rows])
    one, two = deltas(plain.state), deltas(turned.state)
    assert all(error(two[name], -delta) < 1e-5 for name, delta in one.items())
    for row in plain.rows:
        whole = 0.7 * ONE[row.name] - 0.5 * TWO[row.name]
        left = 1 - float((one[row.name] - whole).norm() ** 2 / whole.norm() ** 2)
        assert row.retained == pytest.approx(left, abs=1e-4)
    if "megabytes" in cut:
        path = write(plain.state, tmp_path / "x.safetensors", precision="fp32")
        assert path.stat().st_size <= 60_000
    known = merge([Ingredient(factorised(A, how), -0.7)], limit)
    fresh = merge([Ingredient(A, -0.7)], limit)
    assert [r.after for r in known.rows] == [r.after for r in fresh.rows]
    pairs = zip(deltas(known.state).values(), deltas(fresh.state).values(), strict=True)
    assert all(error(x, y) < 1e-5 for x, y in pairs)


@pytest.mark.parametrize("how", ["svd", "prefix"])
@pytest.mark.parametrize("cut", [{"rank": 3}, {"energy": 0.8}, {"megabytes": 0.1}])
def test_what_cancels_keeps_no_energy_and_breaks_nothing(how, cut):
    outcome = merge([Ingredient(A, 0.3), Ingredient(A, 0.5), Ingredient(A, -0.8)], Cut(**cut))
    assert outcome.retained == 1.0 and {row.energy for row in outcome.rows} == {0.0}
    assert all(delta.norm() < 1e-5 for delta in deltas(outcome.state).values())


def test_an_adapter_of_weight_0_is_as_if_it_were_not_given():
    layers = {"lora_unet_input_blocks_3_1_transformer_blocks_0_attn2_to_k": (24, 2048)}
    koala = opened(2, layers=layers, words="other")  # of another base model
    alone = merge([Ingredient(A)])
    for overlap in (False, True):
        both = merge([Ingredient(A), Ingredient(koala, 0.0)], overlap=overlap)
        assert deltas(both.state).keys() == ONE.keys()
        assert [(r.before, r.after) for r in both.rows] == [(r.before, r.after) for r in alone.rows]
        assert both.state.metadata["modelspec.merged_from"] == "adapter 0 × 1"
        assert "modelspec.trigger_phrase" not in both.state.metadata
    nothing = merge([Ingredient(A), Ingredient(koala, 1.0, 1.0, 0.0)])  # has cross-attention alone
    assert deltas(nothing.state).keys() == ONE.keys()
    with pytest.raises(LoRA2Error, match=r"nothing is left .*adapter 0 × 0, adapter 1 × 1 \(down"):
        merge([Ingredient(A, 0.0), Ingredient(opened(1, layers=dict([*LAYERS.items()][:2])),
                                              blocks=parse_blocks("down=0"))])  # fmt: skip


def test_a_weight_that_fp32_cannot_write_is_shared_by_the_factors():
    for name, factors in components(merge([Ingredient(A, -1e-60)]).state).items():
        found = factors.up.double() @ factors.down.double()
        assert error(found, -1e-60 * ONE[name].double()) < 1e-6


def test_blocks_are_in_the_note_as_they_are_read():
    blocks = parse_blocks("down = 0.5;up4=-0.25\nmiddle=1")
    assert parse_blocks(str(blocks)) == blocks
    metadata = merge([Ingredient(A, 0.5, blocks=blocks), Ingredient(B)]).state.metadata
    one, other = json.loads(metadata["lora2"])["merged_from"]
    assert one["blocks"] == "down=0.5, up4=-0.25, middle=1" and "blocks" not in other
    assert metadata["modelspec.merged_from"] == "adapter 0 × 0.5, adapter 1 × 1"
