"""What a single-file checkpoint of the SDXL family holds, told from names and shapes."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open

from ..errors import LoRA2Error
from .diffusers_unet import state_names

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP_L = "conditioner.embedders.0.transformer.text_model."
CLIP_G = "conditioner.embedders.1.model."
_SIZES = 6  # numbers of SDXL's size and crop conditioning
_SIZE_WIDTH = 256  # Fourier features of each
_HEAD = 64  # width of an attention head, in UNet and text encoders alike
_CONTEXT = 2048  # both text encoders side by side
_SCALE = 0.13025  # latents to unit variance

Shapes = Mapping[str, tuple[int, ...]]


def unet_config(shapes: Shapes) -> dict:
    """Arguments of UNet2DConditionModel for the UNet in a checkpoint of these shapes.

    Raises LoRA2Error, naming the kind as far as it is known, for anything but SDXL and KOALA.
    """
    found = {n.removeprefix(UNET): s for n, s in shapes.items() if n.startswith(UNET)}
    _check_kind(shapes, found)
    channels, depths, layers = _levels(found)
    attention = [depth > 0 for depth in depths]
    down = ["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attention]
    up = ["CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attention)]
    middle = any(name.startswith("middle_block.") for name in found)
    config = {
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": tuple(down),
        "up_block_types": tuple(up),
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else None,
        # diffusers wants a depth for a level without attention too, and does not use it
        "transformer_layers_per_block": tuple(max(1, depth) for depth in depths),
        "attention_head_dim": tuple(max(1, width // _HEAD) for width in channels),  # means: heads
        "cross_attention_dim": _CONTEXT,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": _SIZE_WIDTH,
        "projection_class_embeddings_input_dim": found["label_emb.0.0.weight"][1],
        "sample_size": 128,
    }
    _check_shapes(config, found)
    return config


def read_unet(file: Path, config: dict, dtype: torch.dtype) -> UNet2DConditionModel:
    """The UNet of a checkpoint whose unet_config is `config`, on the CPU."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    names = state_names(unet)
    with safe_open(str(file), "pt") as stored:
        weights = {key: stored.get_tensor(UNET + name).to(dtype) for key, name in names.items()}
    unet.load_state_dict(weights, assign=True)
    return unet


def text_config(shapes: Shapes, prefix: str, layer: str) -> dict:
    """Arguments of CLIPTextConfig, from the names under `prefix`; `layer` is before its number."""
    open_clip = prefix == CLIP_G
    position, token = "embeddings.position_embedding.weight", "embeddings.token_embedding.weight"
    if open_clip:
        position, token = "positional_embedding", "token_embedding.weight"
    try:
        length, width = shapes[prefix + position]
        words = shapes[prefix + token][0]
    except KeyError as missing:
        raise LoRA2Error(
            f"the checkpoint has no {missing}: a text encoder is missing; take a checkpoint with "
            "both, or a diffusers folder"
        ) from None
    pattern = re.compile(re.escape(prefix + layer) + r"\.(\d+)\.")
    count = 1 + max(int(m[1]) for m in map(pattern.match, shapes) if m)
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": count,
        "num_attention_heads": max(1, width // _HEAD),
        "max_position_embeddings": length,
        "vocab_size": words,
        "projection_dim": width,
        "hidden_act": "gelu" if open_clip else "quick_gelu",
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
        "pad_token_id": 0 if open_clip else words - 1,
    }


def vae_config(shapes: Shapes) -> dict:
    """Arguments of AutoencoderKL."""
    widths = []
    while shape := shapes.get(f"{VAE}encoder.down.{len(widths)}.block.0.conv1.weight"):
        widths.append(shape[0])
    if not widths:
        raise LoRA2Error(
            "the checkpoint has no VAE of SDXL's kind; take a checkpoint with its VAE, or a "
            "diffusers folder"
        )
    blocks = len(widths)
    return {
        "block_out_channels": tuple(widths),
        "down_block_types": ("DownEncoderBlock2D",) * blocks,
        "up_block_types": ("UpDecoderBlock2D",) * blocks,
        "layers_per_block": 2,
        "latent_channels": 4,
        "scaling_factor": _SCALE,
        "sample_size": 1024,
    }


def _check_kind(shapes: Shapes, unet: Shapes) -> None:
    hint = "load an SDXL or KOALA checkpoint"
    if any(name.startswith(("down_blocks.", "unet.")) for name in shapes):
        raise LoRA2Error("the file holds a diffusers UNet; give the diffusers folder instead")
    kinds = {"double_blocks.": "Flux", "joint_blocks.": "Stable Diffusion 3", "lora_": "a LoRA"}
    kind = next((k for part, k in kinds.items() if any(part in n for n in shapes)), None)
    if kind or "input_blocks.0.0.weight" not in unet:
        raise LoRA2Error(f"the file holds {kind or 'no UNet'}, which cannot be trained; {hint}")
    channels = unet["input_blocks.0.0.weight"][1]
    if channels != 4:
        kind = "an inpainting model" if channels == 9 else f"a model of {channels} input channels"
        raise LoRA2Error(f"the checkpoint is {kind}, which cannot be trained; {hint}")
    context = {s[1] for n, s in unet.items() if n.endswith("attn2.to_k.weight")}
    if context != {_CONTEXT} or "label_emb.0.0.weight" not in unet:
        known = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2", 1280: "the SDXL refiner"}
        kind = next((known[c] for c in context if c in known), f"a model of text width {context}")
        raise LoRA2Error(f"the checkpoint is {kind}, which cannot be trained; {hint}")


def _levels(unet: Shapes) -> tuple[tuple[int, ...], list[int], int]:
    """(channels, transformer blocks) of each level on the way down, and layers a level."""
    pattern = re.compile(r"input_blocks\.(\d+)\.(.+)")
    blocks: dict[int, dict[str, tuple[int, ...]]] = {}
    for name, shape in unet.items():
        if match := pattern.match(name):
            blocks.setdefault(int(match[1]), {})[match[2]] = shape
    channels, depths, layers = [], [0], [0]
    for index in sorted(blocks)[1:]:
        block = blocks[index]
        if "0.op.weight" in block:
            depths.append(0)
            layers.append(0)
            continue
        layers[-1] += 1
        width = block.get("0.out_layers.3.weight", (0,))[0]
        if layers[-1] == 1:
            channels.append(width)
        depths[-1] = len({name.split(".")[2] for name in block if "transformer_blocks" in name})
    return tuple(channels), depths, layers[0]


def _check_shapes(config: dict, found: Shapes) -> None:
    try:
        with torch.device("meta"):
            unet = UNet2DConditionModel(**config)
        state = unet.state_dict()
        expected = {name: tuple(state[key].shape) for key, name in state_names(unet).items()}
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise LoRA2Error(
            f"the checkpoint's UNet is of an unknown kind ({error}); load an SDXL or KOALA one"
        ) from error
    wrong = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
    if wrong:
        name = wrong[0]
        raise LoRA2Error(
            f"the checkpoint's UNet is of an unknown kind: {len(wrong)} tensors are not as in SDXL "
            f"or KOALA, such as {name} (found {found.get(name)}, expected {expected.get(name)})"
        )
