"""One name a layer, whatever library named it; which base model a set of names belongs to."""

import pytest
from peers import family, layers

from lora2_core.backbones.diffusers_unet import DiffusersUNet
from lora2_core.errors import LoRA2Error
from lora2_core.files.module_names import architecture, attention_kind, canonical_names, kohya_name

FAMILIES = ("SDXL", "KOALA", "Stable Diffusion 1")


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return request.param, family(request.param)


STYLES = {
    "peft": lambda name: f"unet.{name}",
    "kohya, diffusers' blocks": lambda name: "lora_unet_" + name.replace(".", "_"),
    "peft, bare": lambda name: f"base_model.model.{name}",
}


@pytest.mark.parametrize("style", STYLES)
def test_every_layer_of_a_real_unet_gets_the_single_file_name(model, style):
    base, unet = model
    names = DiffusersUNet(unet)
    shapes = {STYLES[style](name): shape for name, shape in layers(unet).items()}
    found = canonical_names(shapes)
    assert architecture(shapes) == base
    for name in layers(unet):
        assert found[STYLES[style](name)] == kohya_name(names.module_name(name))


@pytest.mark.parametrize("style", ["lora_unet_{}", "diffusion_model.{}"])
def test_single_file_names_stay(model, style):
    base, unet = model
    names = DiffusersUNet(unet)
    shapes = {}
    for name, shape in layers(unet).items():
        sgm = names.module_name(name)
        shapes[style.format(sgm if "." in style else sgm.replace(".", "_"))] = shape
    assert architecture(shapes) == base
    expected = {kohya_name(names.module_name(name)) for name in layers(unet)}
    assert set(canonical_names(shapes).values()) == expected


def test_attention_alone_tells_the_base_model(model):
    base, unet = model
    shapes = {f"unet.{n}": shape for n, shape in layers(unet).items() if ".attn" in n}
    assert architecture(shapes) == base


def test_text_encoders():
    layer = "text_model.encoder.layers.0.self_attn.q_proj"
    flat = layer.replace(".", "_")
    cross = {"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k": (8, 2048)}
    found = canonical_names(
        cross | {f"text_encoder.{layer}": (8, 8), f"text_encoder_2.{layer}": (8, 8)}
    )
    assert found[f"text_encoder.{layer}"] == f"lora_te1_{flat}"
    assert found[f"text_encoder_2.{layer}"] == f"lora_te2_{flat}"
    newer = "text_encoder_2.encoder.layers.0.self_attn.q_proj"
    assert canonical_names(cross | {newer: (8, 8)})[newer] == f"lora_te2_{flat}"
    kept = {f"lora_te1_{flat}": (8, 8), f"lora_te2_{flat}": (8, 8), f"lora_te_{flat}": (8, 8)}
    assert all(canonical_names({name: s})[name] == name for name, s in kept.items())
    sd1 = {"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": (8, 768)}
    assert canonical_names(sd1 | {f"text_encoder.{layer}": (8, 8)})[f"text_encoder.{layer}"] == (
        f"lora_te_{flat}"
    )


def test_old_attention_processors_of_diffusers():
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
    found = canonical_names({f"unet.{layer}.processor.to_out": (8, 8)})
    assert list(found.values()) == [
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_out_0"
    ]


def test_unknown_models_keep_their_names():
    name = "transformer.single_transformer_blocks.0.attn.to_q"
    assert canonical_names({name: (8, 8)}) == {name: name}
    assert architecture({name: (8, 8)}) == "Flux"
    assert architecture({"lora_unet_double_blocks_0_img_attn_qkv": (8, 8)}) == "Flux"
    assert architecture({"something": (8, 8)}) is None


def test_one_layer_under_two_names_is_refused():
    one = "unet.down_blocks.1.attentions.0.proj_in"
    with pytest.raises(LoRA2Error, match="the same layer"):
        canonical_names({one: (8, 8), "lora_unet_" + one[5:].replace(".", "_"): (8, 8)})


def test_attention_kinds():
    stem = "lora_unet_input_blocks_4_1_transformer_blocks_0"
    assert attention_kind(f"{stem}_attn1_to_out_0") == "self"
    assert attention_kind(f"{stem}_attn2_to_k") == "cross"
    assert attention_kind(f"{stem}_ff_net_2") is None
