"""What lies beside the factors: by kind, in reading, saving, and for the host's loader."""

import pytest
import torch
from safetensors.torch import load_file

from lora2_core.errors import LoRA2Error
from lora2_core.files import beside
from lora2_core.files.adapter_file import LoraState, as_state, components
from lora2_core.files.beside import counted, extra_of, said
from lora2_core.files.fit import Targets
from lora2_core.files.fit_beside import fit_beside, nothing_fits
from lora2_core.files.hosted import hosted, hosted_beside
from lora2_core.files.stored import contents, seen, stored_components
from lora2_core.files.writing import write

LAYER = "lora_unet_input_blocks_4_1_proj_in"
NORM = "lora_unet_input_blocks_4_1_norm"


def plain(name=LAYER, m=8, n=6, r=2):
    draw = torch.Generator().manual_seed(0)
    return {
        f"{name}.lora_down.weight": torch.randn(r, n, generator=draw),
        f"{name}.lora_up.weight": torch.randn(m, r, generator=draw),
        f"{name}.alpha": torch.tensor(1.0),
    }


KINDS = {
    "a.diff": beside.WEIGHT,
    "a.w_norm": beside.WEIGHT,
    "a.diff_b": beside.BIAS,
    "a.b_norm": beside.BIAS,
    "a.set_weight": beside.SET,
    "a.dora_scale": beside.MAGNITUDE,
    "a.lora_magnitude_vector": beside.MAGNITUDE,
    "a.lora_magnitude_vector.weight": beside.MAGNITUDE,
    "a.lora_magnitude_vector.default.weight": beside.MAGNITUDE,
    "a.reshape_weight": beside.RESHAPE,
    "a.oft_blocks": beside.OFT,
    "a.rescale": beside.RESCALE,
    "a.boft_R": beside.PEFT_OFT,
    "a.oft_r.default": beside.PEFT_OFT,
    "a.a1.weight": beside.GLORA,
    "a.lora_B.bias": beside.FACTOR_BIAS,
    "a.lora_up.bias": beside.FACTOR_BIAS,
    "a.on_input": beside.IA3,
    "a.lora_embedding_A": beside.LAYER_EMBEDDING,
    "a.vera_lambda_b": beside.VERA,
    "bundle_emb.dog.clip_l": beside.EMBEDDING,
    "logit_scale": beside.UNKNOWN,
    "a.weight": beside.UNKNOWN,
}


@pytest.mark.parametrize(("key", "kind"), KINDS.items(), ids=KINDS.keys())
def test_every_kind_lies_beside_and_is_told_by_its_key(key, kind):
    found = extra_of(key, (4, 4))
    assert found.kind == kind
    assert found.key == (found.name + found.ending)
    inside = contents(seen(plain() | {key: torch.ones(4, 4)}))
    assert [stored.name for stored in inside.components] == [LAYER]
    assert [extra.key for extra in inside.extras] == [key]
    assert set(components(plain() | {key: torch.ones(4, 4)})) == {LAYER}


def test_they_are_counted_in_words():
    keys = ("a.diff", "b.w_norm", "a.diff_b", "c.diff")
    extras = [extra_of(key, (4,)) for key in keys[:3]] + [extra_of("c.diff", (4, 4))]
    assert counted(extras) == {"norms": 2, "bias": 1, "whole weight": 1}
    assert said(extras) == "2 norms, 1 bias, 1 whole weight"


NOTHING = {
    "IA3": ({"a.on_input": torch.ones(1)}, "IA3.*'a.on_input'.*neither"),
    "PEFT's OFT": ({"a.oft_r.default": torch.ones(2, 2)}, "OFT.*neither"),
    "VeRA": ({"a.vera_lambda_b": torch.ones(2)}, "VeRA.*neither"),
    "embedding": ({"bundle_emb.dog.clip_l": torch.ones(2, 2)}, "embeddings folder"),
    "unknown": ({"logit_scale": torch.ones(1)}, "'logit_scale' is not part of a LoRA"),
    "alpha": ({"a.alpha": torch.ones(1)}, "'a.alpha' is not part of a LoRA"),
    "empty": ({}, "holds no LoRA"),
}


@pytest.mark.parametrize(("state", "words"), NOTHING.values(), ids=NOTHING.keys())
def test_a_file_of_which_nothing_is_read_is_refused_by_name(state, words):
    with pytest.raises(LoRA2Error, match=words) as caught:
        contents(seen(state))
    assert "own loader" not in str(caught.value)  # which could not read it either


@pytest.mark.parametrize("key", ["a.oft_blocks", "a.diff", "a.diff_b", "a.a1.weight"])
def test_what_only_the_host_applies_is_sent_there(key):
    state = {key: torch.ones(4, 4)}
    assert contents(seen(state)).components == []
    with pytest.raises(LoRA2Error, match="LoRA² Load or the host's own loader"):
        stored_components(seen(state))


def test_the_hosts_own_names_become_kohyas_for_all_of_a_file():
    own = "diffusion_model.input_blocks.4.1.proj_in"
    state = plain(own) | {
        f"{own}.diff_b": torch.ones(8),
        "diffusion_model.input_blocks.4.1.norm.diff": torch.ones(8),
        "bundle_emb.dog.clip_l": torch.ones(1, 4),
    }
    assert set(as_state(state)) == set(plain()) | {
        f"{LAYER}.diff_b", f"{NORM}.diff", "bundle_emb.dog.clip_l"
    }  # fmt: skip


def test_saving_keeps_what_lies_beside(tmp_path):
    state = plain() | plain("lora_unet_input_blocks_4_1_proj_out", r=3)
    state |= {f"{LAYER}.diff_b": torch.randn(8), f"{LAYER}.dora_scale": torch.rand(8, 1)}
    state |= {f"{LAYER}.reshape_weight": torch.tensor([8, 6])}
    found = load_file(write(LoraState(state), tmp_path / "a.safetensors", precision="fp16"))
    for ending in (".diff_b", ".dora_scale"):
        assert torch.equal(found[LAYER + ending], state[LAYER + ending].half())
    assert found[f"{LAYER}.reshape_weight"].tolist() == [8, 6]
    old, new = components(state)[LAYER].delta(), components(found)[LAYER].delta()
    assert torch.allclose(old, new, atol=1e-2)


TARGETS = Targets({LAYER: (8, 6), NORM: (8,)})


def test_tensors_beside_are_placed_where_their_layer_is():
    state = plain("unet.down_blocks.1.attentions.0.proj_in")
    state |= {"unet.down_blocks.1.attentions.0.norm.diff": torch.ones(8),
              "unet.down_blocks.1.attentions.0.norm.diff_b": torch.ones(8),
              "lora_te1_text_model_final_layer_norm.diff": torch.ones(8),
              "bundle_emb.dog.clip_l": torch.ones(1, 4)}  # fmt: skip
    inside = contents(seen(state))
    found = fit_beside(inside.extras, inside.components, TARGETS, "x", "a UNet")
    given = hosted_beside(state, inside.components, found.placed, found.names)
    assert set(given) == {f"{NORM}.diff", f"{NORM}.diff_b"}
    text = str(found)
    assert "beside: 1 norm, 1 bias" in text
    assert "no layer for 1 norm ('lora_te1_text_model_final_layer_norm.diff')" in text
    assert "does not read 1 part of an embedding ('bundle_emb.dog.clip_l')" in text


@pytest.mark.parametrize(("key", "shape"), [(f"{NORM}.diff", (9,)), (f"{LAYER}.diff_b", (6,))])
def test_a_size_that_is_not_the_models_is_another_architecture(key, shape):
    with pytest.raises(LoRA2Error, match=f"another architecture.*{key}"):
        fit_beside([extra_of(key, shape)], [], TARGETS, "x", "a UNet")


def test_a_file_of_which_nothing_fits_is_refused():
    found = fit_beside([extra_of("lora_unet_else.diff", (8,))], [], TARGETS, "x", "a UNet")
    with pytest.raises(LoRA2Error, match=r"nothing of x fits a UNet.*1 norm"):
        nothing_fits(found, "x", "a UNet")


def test_pefts_magnitudes_and_biases_reach_the_host_in_its_own_form():
    name = "unet.down_blocks.1.attentions.0.proj_in"
    magnitude, bias = torch.rand(8), torch.randn(8)
    state = {f"{name}.lora_A.weight": torch.ones(2, 6), f"{name}.lora_B.weight": torch.ones(8, 2),
             f"{name}.alpha": torch.tensor(6.0), f"{name}.lora_B.bias": bias,
             f"{name}.lora_magnitude_vector.weight": magnitude}  # fmt: skip
    inside = contents(seen(state))
    given = hosted(state, inside.components, {name: LAYER})
    given |= hosted_beside(state, inside.components, inside.extras, {name: LAYER})
    assert torch.equal(given[f"{LAYER}.dora_scale"], magnitude[:, None])
    assert torch.equal(given[f"{LAYER}.diff_b"], 3 * bias)


def test_another_product_reaches_the_host_as_it_is():
    parts = {"hada_w1_a": torch.ones(8, 2), "hada_w1_b": torch.ones(2, 6),
             "hada_w2_a": torch.ones(8, 2), "hada_w2_b": torch.ones(2, 6)}  # fmt: skip
    state = {f"lycoris_x.{role}": tensor for role, tensor in parts.items()}
    listed = stored_components(seen(state | {"lycoris_x.alpha": torch.tensor(1.0)}))
    given = hosted(state | {"lycoris_x.alpha": torch.tensor(1.0)}, listed, {"lycoris_x": LAYER})
    assert set(given) == {f"{LAYER}.{role}" for role in (*parts, "alpha")}
