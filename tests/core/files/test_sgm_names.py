"""Names and counts on the real architectures, built without memory: method.md's property 12."""

import pytest
import torch
import unet_shapes
from diffusers import UNet2DConditionModel
from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)

from lora2_core.backbones.diffusers_unet import DiffusersUNet
from lora2_core.files.sgm_names import sgm_name
from lora2_core.layers.inject import create_adapters

FAMILY = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}
SDXL = FAMILY | {"layers_per_block": 2, "transformer_layers_per_block": [1, 2, 10]}
KOALA = FAMILY | {
    "layers_per_block": 1,
    "transformer_layers_per_block": [1, 2, 5],
    "mid_block_type": None,
}
MIB = 2**20


@pytest.fixture(scope="module", params=["sdxl", "koala"])
def real(request):
    """(UNet on the meta device, its independent walk, the row of the table)."""
    sdxl = request.param == "sdxl"
    with torch.device("meta"):
        unet = UNet2DConditionModel(**(SDXL if sdxl else KOALA))
    table = (
        {"components": 560, "unit": 1_451_520, "self": 665_600, "mib": {64: 354.4, 512: 2835.0}}
        if sdxl
        else {"components": 168, "unit": 408_576, "self": None, "mib": {64: 99.75, 512: 798.0}}
    )
    return unet, unet_shapes.SDXL if sdxl else unet_shapes.KOALA_700M, table


def test_the_architecture_is_the_real_one(real):
    unet, walk, _ = real
    assert sum(p.numel() for p in unet.parameters()) == unet_shapes.PARAMETERS[walk]


def test_components_and_parameters_a_rank_are_those_of_the_table(real):
    unet, _, table = real
    adapters = create_adapters(unet, "attention", 512, torch.device("meta"))
    assert len(adapters) == table["components"]
    own = 0
    for adapter in adapters:
        adapter.set_rank(
            1,
            torch.empty(1, adapter.in_features, device="meta"),
            torch.empty(1, adapter.out_features, device="meta"),
        )
        own += (".attn1." in adapter.name) * sum(
            rows.active.numel() for rows in (adapter.a, adapter.b)
        )
    unit = sum(rows.active.numel() for a in adapters for rows in (a.a, a.b))
    assert unit == table["unit"]
    if table["self"]:
        assert own == table["self"] and unit - own == 785_920
    for rank, mib in table["mib"].items():
        assert unit * rank * 4 / MIB == pytest.approx(mib, rel=2e-4)


def test_every_weight_has_the_name_of_the_single_file_checkpoint(real):
    """Not only the adapted ones, and against a walk that knows nothing of diffusers."""
    unet, walk, _ = real
    denoiser = DiffusersUNet(unet)
    found = {}
    for name, parameter in unet.named_parameters():
        module, _, kind = name.rpartition(".")
        sgm = f"{denoiser.module_name(module)}.{kind}"
        assert sgm not in found
        found[sgm] = tuple(parameter.shape)
    assert found == unet_shapes.unet_shapes(walk)


def test_diffusers_maps_every_adapted_name_back(real):
    unet, _, table = real
    denoiser = DiffusersUNet(unet)
    names = [a.name for a in create_adapters(unet, "attention", 1, torch.device("meta"))]
    file = {}
    for name in names:
        stem = f"lora_unet_{denoiser.module_name(name).replace('.', '_')}"
        file |= {f"{stem}.lora_down.weight": name, f"{stem}.lora_up.weight": name}
    assert len(file) == 2 * table["components"]
    back, _ = _convert_non_diffusers_lora_to_diffusers(
        _maybe_map_sgm_blocks_to_diffusers(file, unet.config)
    )
    expected = {}
    for name in names:
        block, _, part = name.removesuffix(".0").rpartition(".")
        for side in ("down", "up"):
            expected[f"unet.{block}.processor.{part}_lora.{side}.weight"] = name
    assert back == expected


def test_a_name_that_no_unet_has_is_refused():
    with pytest.raises(ValueError, match=r"transformer\.blocks\.0 is not a module"):
        sgm_name("transformer.blocks.0", 2, (True, True, False))


@pytest.mark.parametrize(
    ("name", "sgm"),
    [
        ("down_blocks.2.downsamplers.0.conv", "input_blocks.9.0.op"),
        ("mid_block.resnets.1.conv1", "middle_block.2.in_layers.2"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.1.conv"),
        ("up_blocks.1.upsamplers.0.conv", "output_blocks.5.2.conv"),
        ("up_blocks.3.attentions.2.proj_in", "output_blocks.11.1.proj_in"),
    ],
)
def test_a_level_without_attention_shifts_its_upsampler(name, sgm):
    """As in Stable Diffusion 1.5, whose first level on the way up has none."""
    assert sgm_name(name, 2, (False, True, True, True)) == sgm
