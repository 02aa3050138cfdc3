"""Checkpoints by their shapes: SDXL and KOALA are taken, everything else is named and refused."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel
from unet_shapes import KOALA_700M, KOALA_SMALL, PARAMETERS, PREFIX, SDXL, SDXL_SMALL, unet_shapes

from lora2_core.backbones import single_file
from lora2_core.errors import LoRA2Error


def prefixed(config, **changes):
    return {PREFIX + name: shape for name, shape in unet_shapes(config).items()} | changes


@pytest.mark.parametrize("config", [SDXL, SDXL_SMALL, KOALA_700M, KOALA_SMALL])
def test_shapes_give_a_unet_of_the_same_size(config):
    found = single_file.unet_config(prefixed(config))
    with torch.device("meta"):
        unet = UNet2DConditionModel(**found)
    assert sum(p.numel() for p in unet.parameters()) == PARAMETERS[config]


def test_sdxl_has_its_published_configuration():
    found = single_file.unet_config(prefixed(SDXL))
    assert found["block_out_channels"] == (320, 640, 1280)
    assert found["transformer_layers_per_block"] == (1, 2, 10)
    assert found["attention_head_dim"] == (5, 10, 20)
    assert found["projection_class_embeddings_input_dim"] == 2816
    assert found["layers_per_block"] == 2


def other_context(width):
    return {
        name: (shape[0], width) if "attn2.to_k" in name or "attn2.to_v" in name else shape
        for name, shape in prefixed(SDXL_SMALL).items()
    }


@pytest.mark.parametrize(
    ("shapes", "kind"),
    [
        (other_context(768), "Stable Diffusion 1.5"),
        (other_context(1024), "Stable Diffusion 2"),
        (other_context(1280), "the SDXL refiner"),
        (prefixed(SDXL_SMALL, **{f"{PREFIX}input_blocks.0.0.weight": (8, 9, 3, 3)}), "inpainting"),
        ({f"{PREFIX}double_blocks.0.img_attn.qkv.weight": (9, 3)}, "Flux"),
        ({"double_blocks.0.img_attn.qkv.weight": (9, 3)}, "Flux"),
        ({"tokenizer.weight": (9, 3)}, "no UNet"),
        ({"lora_unet_x.lora_down.weight": (4, 8)}, "a LoRA"),
        ({"down_blocks.0.resnets.0.conv1.weight": (4, 8, 3, 3)}, "diffusers folder"),
        (prefixed(SDXL_SMALL, **{f"{PREFIX}control.0.weight": (3,)}), "control.0.weight"),
    ],
)
def test_other_kinds_are_named(shapes, kind):
    with pytest.raises(LoRA2Error, match=kind):
        single_file.unet_config(shapes)


def test_text_encoder_and_vae_are_read_from_their_shapes():
    text = CLIPTextConfig(
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=1,
        vocab_size=514,
    )
    with torch.device("meta"):
        state = CLIPTextModel(text).state_dict()
        vae = AutoencoderKL(
            block_out_channels=(32, 64),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=2,
        )
    shapes = {
        single_file.CLIP_L + name.removeprefix("text_model."): tuple(tensor.shape)
        for name, tensor in state.items()
    }
    found = single_file.text_config(shapes, single_file.CLIP_L, "encoder.layers")
    assert (found["num_hidden_layers"], found["hidden_size"], found["vocab_size"]) == (3, 64, 514)
    widths = [block.resnets[0].conv1.weight.shape for block in vae.encoder.down_blocks]
    names = {
        f"first_stage_model.encoder.down.{i}.block.0.conv1.weight": tuple(shape)
        for i, shape in enumerate(widths)
    }
    assert single_file.vae_config(names)["block_out_channels"] == (32, 64)


def test_missing_parts_are_named():
    with pytest.raises(LoRA2Error, match="text encoder is missing"):
        single_file.text_config({}, single_file.CLIP_G, "transformer.resblocks")
    with pytest.raises(LoRA2Error, match="VAE"):
        single_file.vae_config({})
