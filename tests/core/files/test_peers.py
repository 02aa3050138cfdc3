"""Adapter files against the real diffusers and PEFT, in both directions."""

import pytest
import torch
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peers import SdxlLora, deltas, error, load_with_diffusers, small_unet
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from lora2_core.backbones.diffusers_unet import DiffusersUNet
from lora2_core.files.adapter_file import LoraState, components, pack, read
from lora2_core.files.module_names import kohya_name
from lora2_core.files.writing import write

RANKS = (1, 2, 7, 64, 257, 512)
# fp16: half a unit in the last place is 2^-11, and its mean square over a factor 0.6 of that; two
# factors. bf16: 2^-9 in place of 2^-11, so four times that.
BOUNDS = {"fp32": 1e-6, "fp16": 5e-4, "bf16": 4e-3}


@pytest.fixture
def unet():
    return small_unet()


def random_factors(unet, wanted) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Single-file module name → factors, ranks mixed over every kind of layer."""
    generator = torch.Generator().manual_seed(1)
    names = DiffusersUNet(unet)
    folded = {}
    for name, layer in unet.named_modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) and wanted(name):
            rank = RANKS[torch.randint(len(RANKS), (), generator=generator)]
            out, *rest = layer.weight.shape
            folded[names.module_name(name)] = (
                torch.randn(rank, *rest, generator=generator),
                torch.randn(out, rank, *(1 for _ in rest[1:]), generator=generator),
            )
    return folded


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("with_alpha", [True, False])
def test_diffusers_loads_every_layer_with_the_same_update(unet, tmp_path, precision, with_alpha):
    state = pack(random_factors(unet, lambda _: True), metadata={"ss_v2": "False"})
    if not with_alpha:
        parts = components(state)
        state = LoraState({f"{n}.lora_down.weight": part.down for n, part in parts.items()})
        state |= {f"{n}.lora_up.weight": part.up * part.scale for n, part in parts.items()}
    expected = {name: factors.delta() for name, factors in components(state).items()}
    path = write(state, tmp_path / "mixed.safetensors", precision=precision)

    names = DiffusersUNet(unet)
    found = load_with_diffusers(unet, path)

    assert {kohya_name(names.module_name(name)) for name in found} == set(expected)
    assert len({factors.rank for factors in components(state).values()}) == len(RANKS)
    for name, delta in found.items():
        assert error(delta, expected[kohya_name(names.module_name(name))]) <= BOUNDS[precision]


def add_peft_adapter(model, **settings) -> None:
    """A PEFT adapter with random factors of unequal rank and alpha."""
    names = [
        n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)
    ]
    special, other = names[3], names[-4]
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=names,
        rank_pattern={special: 9, other: 1},
        alpha_pattern={special: 2},
        init_lora_weights=False,
        **settings,
    )
    model.add_adapter(config)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_()


@pytest.mark.parametrize("stabilised", [False, True])
def test_a_file_saved_by_diffusers_reads_with_the_same_update(unet, tmp_path, stabilised):
    add_peft_adapter(unet, use_rslora=stabilised)
    SdxlLora.save_lora_weights(
        str(tmp_path),
        unet_lora_layers=get_peft_model_state_dict(unet),
        unet_lora_adapter_metadata=unet.peft_config["default"].to_dict(),
        weight_name="peer.safetensors",
    )
    found = components(read(tmp_path / "peer.safetensors"))
    expected = deltas(unet, "default")
    assert set(found) == {f"unet.{name}" for name in expected}
    for name, delta in expected.items():
        assert error(found[f"unet.{name}"].delta(), delta) <= 1e-6


@pytest.mark.parametrize("style", ["peft", "diffusers", "kohya"])
def test_each_naming_style_of_diffusers_reads_with_the_same_update(unet, tmp_path, style):
    add_peft_adapter(unet)
    tensors = {f"unet.{k}": t for k, t in get_peft_model_state_dict(unet).items()}
    if style == "diffusers":
        tensors = convert_state_dict_to_diffusers(tensors)
    if style == "kohya":
        tensors = convert_state_dict_to_kohya(tensors)
    path = tmp_path / "peer.safetensors"
    save_file({k: t.detach().contiguous() for k, t in tensors.items()}, path)

    found = components(read(path))

    layers = {n: m for n, m in unet.named_modules() if isinstance(m, LoraLayer)}
    assert len(found) == len(layers)
    for name, layer in layers.items():
        # without diffusers' metadata the scale is 1, by every reader's convention
        expected = layer.get_delta_weight("default").detach() / layer.scaling["default"]
        kohya = style == "kohya"
        factors = found[f"lora_unet_{name.replace('.', '_')}" if kohya else f"unet.{name}"]
        assert factors.alpha == (layer.r["default"] if kohya else None)
        assert error(factors.delta(), expected) <= 1e-6


def test_a_text_encoder_saved_by_diffusers_reads_with_the_same_update(tmp_path):
    size = {"hidden_size": 16, "intermediate_size": 32, "projection_dim": 16}
    encoder = CLIPTextModel(
        CLIPTextConfig(**size, vocab_size=30, num_hidden_layers=2, num_attention_heads=2)
    )
    config = LoraConfig(
        r=3, lora_alpha=3, target_modules=["q_proj", "fc1"], init_lora_weights=False
    )
    inject_adapter_in_model(config, encoder)
    tensors = convert_state_dict_to_diffusers(get_peft_model_state_dict(encoder))
    SdxlLora.save_lora_weights(
        str(tmp_path), text_encoder_lora_layers=tensors, weight_name="peer.safetensors"
    )
    state = read(tmp_path / "peer.safetensors")
    assert any(".lora_linear_layer." in key for key in state)
    found = components(state)
    expected = deltas(encoder, "default")
    assert set(found) == {f"text_encoder.{name}" for name in expected}
    for name, delta in expected.items():
        assert error(found[f"text_encoder.{name}"].delta(), delta) <= 1e-6
