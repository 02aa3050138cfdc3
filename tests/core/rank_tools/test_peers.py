"""Rank tools on files that the real PEFT and diffusers wrote, and theirs on ours."""

import pytest
import torch
from diffusers import (
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peers import SdxlLora, deltas, error, load_with_diffusers, small_unet
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from lora2_core.backbones.diffusers_unet import DiffusersUNet
from lora2_core.errors import LoRA2Error
from lora2_core.files.adapter_file import components, read
from lora2_core.files.module_names import kohya_name
from lora2_core.files.writing import write
from lora2_core.rank_tools import Cut, Ingredient, compress, expand, merge, open_adapter

STYLES = ("peft", "diffusers", "kohya", "diffusers with metadata")


def trained(seed, path, style, targets=("to_q", "to_v", "conv1")):
    """A PEFT adapter of mixed ranks and alphas, saved in a style; returns its true updates."""
    model = small_unet()
    names = [n for n, _ in model.named_modules() if n.endswith(tuple(targets))]
    config = LoraConfig(
        r=4,
        lora_alpha=4 if style != "diffusers with metadata" else 6,
        target_modules=names,
        rank_pattern={names[0]: 9, names[-1]: 2},
        alpha_pattern={names[0]: 9, names[-1]: 2},
        init_lora_weights=False,
    )
    model.add_adapter(config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_()
    if style == "diffusers with metadata":
        SdxlLora.save_lora_weights(
            str(path.parent),
            unet_lora_layers=get_peft_model_state_dict(model),
            unet_lora_adapter_metadata=model.peft_config["default"].to_dict(),
            weight_name=path.name,
        )
    else:
        tensors = {f"unet.{k}": t for k, t in get_peft_model_state_dict(model).items()}
        if style == "diffusers":
            tensors = convert_state_dict_to_diffusers(tensors)
        if style == "kohya":
            tensors = convert_state_dict_to_kohya(tensors)
        save_file({k: t.detach().contiguous() for k, t in tensors.items()}, path)
    names = DiffusersUNet(small_unet())
    return {kohya_name(names.module_name(n)): d for n, d in deltas(model, "default").items()}


@pytest.mark.parametrize("style", STYLES)
def test_a_merge_of_other_libraries_files(tmp_path, style):
    one = trained(1, tmp_path / "one.safetensors", style)
    two = trained(2, tmp_path / "two.safetensors", "peft", ("to_q", "to_k"))
    adapters = [open_adapter(tmp_path / f"{name}.safetensors") for name in ("one", "two")]
    merged = merge([Ingredient(adapters[0], 0.7), Ingredient(adapters[1], 0.4)])
    path = write(merged.state, tmp_path / "merged.safetensors", precision="fp32")
    expected = {n: 0.7 * one.get(n, 0) + 0.4 * two.get(n, 0) for n in one.keys() | two.keys()}
    assert components(read(path)).keys() == expected.keys()
    for name, factors in components(read(path)).items():
        assert error(factors.delta(), expected[name]) < 1e-5, name


def made(tool, path):
    adapter = open_adapter(path)
    if tool == "merged":
        return merge([Ingredient(adapter, 0.5), Ingredient(adapter, 0.25)]).state
    if tool == "compressed":
        return compress(adapter, Cut(energy=0.9)).state
    return expand(adapter, 12)


@pytest.mark.parametrize("tool", ["merged", "compressed", "expanded"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_diffusers_loads_what_the_tools_make(tmp_path, tool, precision):
    trained(1, tmp_path / "one.safetensors", "diffusers with metadata")
    state = made(tool, tmp_path / "one.safetensors")
    path = write(state, tmp_path / "made.safetensors", precision=precision)
    expected = {name: factors.delta() for name, factors in components(read(path)).items()}
    model = small_unet()
    names = DiffusersUNet(model)
    found = load_with_diffusers(model, path)
    assert {kohya_name(names.module_name(name)) for name in found} == set(expected)
    for name, delta in found.items():
        assert error(delta, expected[kohya_name(names.module_name(name))]) < 1e-6


def peft_state(model, targets, seed=3, alpha=4):
    """A PEFT adapter of unequal ranks on a real model: (state dict, true updates)."""
    names = [n for n, _ in model.named_modules() if n.endswith(tuple(targets))]
    config = LoraConfig(
        r=4,
        lora_alpha=alpha,
        target_modules=names,
        rank_pattern={names[0]: 7},
        alpha_pattern={names[0]: 7},
        init_lora_weights=False,
    )
    inject_adapter_in_model(config, model)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_()
    return get_peft_model_state_dict(model), deltas(model, "default")


def small_text_encoder():
    size = {"hidden_size": 16, "intermediate_size": 32, "projection_dim": 16}
    return CLIPTextModel(
        CLIPTextConfig(**size, vocab_size=30, num_hidden_layers=2, num_attention_heads=2)
    )


def test_an_sdxl_file_with_both_text_encoders(tmp_path):
    unet_layers, updates = peft_state(small_unet(), ("attn2.to_k",))
    expected = {}
    encoders = {}
    for number in (1, 2):
        layers, found = peft_state(small_text_encoder(), ("q_proj", "fc1"), seed=number)
        encoders[number] = layers
        expected |= {(number, name.removeprefix("text_model.")): d for name, d in found.items()}
    SdxlLora.save_lora_weights(
        str(tmp_path),
        unet_lora_layers=unet_layers,
        text_encoder_lora_layers=encoders[1],
        text_encoder_2_lora_layers=encoders[2],
        weight_name="both.safetensors",
    )
    found = components(compress(open_adapter(tmp_path / "both.safetensors"), Cut(rank=9)).state)
    names = DiffusersUNet(small_unet())
    for name, delta in updates.items():
        assert error(found.pop(kohya_name(names.module_name(name))).delta(), delta) < 1e-5
    for (number, name), delta in expected.items():
        key = f"lora_te{number}_text_model_{name.replace('.', '_')}"
        assert error(found.pop(key).delta(), delta) < 1e-5
    assert not found


def test_a_stable_diffusion_1_file(tmp_path):
    model = UNet2DConditionModel(
        block_out_channels=(32, 32, 32, 32), cross_attention_dim=768, attention_head_dim=2
    )
    layers, updates = peft_state(model, ("attn2.to_k", "attn1.to_q", "conv2"))
    StableDiffusionPipeline.save_lora_weights(
        str(tmp_path), unet_lora_layers=layers, weight_name="sd1.safetensors"
    )
    adapter = open_adapter(tmp_path / "sd1.safetensors")
    assert adapter.architecture == "Stable Diffusion 1"
    found = components(merge([Ingredient(adapter, 0.5)]).state)
    names = DiffusersUNet(model)
    for name, delta in updates.items():
        assert error(found[kohya_name(names.module_name(name))].delta(), 0.5 * delta) < 1e-5
    sdxl = tmp_path / "sdxl.safetensors"
    size = {"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k": (8, 2048)}
    save_file(
        {f"{n}.lora_A.weight": torch.ones(2, s[1]) for n, s in size.items()}
        | {f"{n}.lora_B.weight": torch.ones(s[0], 2) for n, s in size.items()},
        sdxl,
    )
    with pytest.raises(LoRA2Error, match=r"sd1\.safetensors \(Stable Diffusion 1\)"):
        merge([Ingredient(adapter), Ingredient(open_adapter(sdxl))])


def test_a_flux_file_keeps_its_names_and_loads_again(tmp_path):
    def flux():
        torch.manual_seed(0)
        return FluxTransformer2DModel(
            in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
        )  # fmt: skip

    layers, updates = peft_state(flux(), ("to_q", "to_k"))
    FluxPipeline.save_lora_weights(
        str(tmp_path), transformer_lora_layers=layers, weight_name="flux.safetensors"
    )
    adapter = open_adapter(tmp_path / "flux.safetensors")
    assert adapter.architecture == "Flux"
    path = write(
        compress(adapter, Cut(energy=1.0)).state, tmp_path / "new.safetensors", precision="fp32"
    )
    tensors, _ = FluxPipeline.lora_state_dict(
        str(tmp_path), weight_name=path.name, return_alphas=True, local_files_only=True
    )
    model = flux()
    FluxPipeline.load_lora_into_transformer(tensors, None, model, adapter_name="peer")
    for name, delta in deltas(model, "peer").items():
        assert error(delta, updates[name]) < 1e-5


def test_the_hosts_own_names(tmp_path):
    names = DiffusersUNet(small_unet())
    layers, updates = peft_state(small_unet(), ("attn1.to_v",))
    tensors = {}
    for key, tensor in layers.items():
        module, _, rest = key.partition(".lora_")
        side = "lora_down" if rest.startswith("A") else "lora_up"
        tensors[f"diffusion_model.{names.module_name(module)}.{side}.weight"] = tensor.contiguous()
    save_file(tensors, tmp_path / "host.safetensors")
    found = components(merge([Ingredient(open_adapter(tmp_path / "host.safetensors"))]).state)
    for name, delta in updates.items():
        assert error(found[kohya_name(names.module_name(name))].delta(), delta) < 1e-5
