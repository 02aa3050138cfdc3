"""Models of SDXL's kind that are small enough to write to disk in a test."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from host.checkpoints import clip_g, clip_l, random_weights
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from unet_shapes import KOALA_SMALL, PREFIX, unet_shapes

_WIDTH = 32
TINY_KOALA = replace(KOALA_SMALL, channels=_WIDTH)
_LETTERS = [chr(code) for code in range(33, 127)]
WORDS = [*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS), "<|startoftext|>", "<|endoftext|>"]


def write_tokenizer(folder: Path) -> Path:
    """CLIP's tokenizer without a single merge: every letter is a word."""
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def write_folder(folder: Path, **scheduler) -> Path:
    """A diffusers folder with random weights."""
    torch.manual_seed(0)
    words = CLIPTokenizer.from_pretrained(write_tokenizer(folder / "words"), model_max_length=77)
    text = CLIPTextConfig(
        hidden_size=_WIDTH, intermediate_size=2 * _WIDTH, num_hidden_layers=2,
        projection_dim=_WIDTH, num_attention_heads=1, vocab_size=len(WORDS),
        eos_token_id=len(WORDS) - 1,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, layers_per_block=1, block_out_channels=(_WIDTH, _WIDTH),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2),
        attention_head_dim=1, cross_attention_dim=2 * _WIDTH, use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=_WIDTH + 48,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(_WIDTH,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, scaling_factor=0.13025,
    )  # fmt: skip
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer=words,
        tokenizer_2=words,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**settings | scheduler),
    ).save_pretrained(folder)
    return folder


def write_checkpoint(file: Path) -> Path:
    """A single-file KOALA, 32 channels wide; its text encoders have two layers each."""
    shapes = {PREFIX + name: shape for name, shape in unet_shapes(TINY_KOALA).items()}
    prefix = "conditioner.embedders.0.transformer.text_model."
    shapes |= dict(clip_l(prefix, layers=2, words=len(WORDS)))
    shapes |= dict(clip_g("conditioner.embedders.1.model.", layers=2, words=len(WORDS)))
    shapes |= dict(_autoencoder("first_stage_model."))
    save_file(random_weights(shapes), file)
    return file


def _autoencoder(prefix: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """AutoencoderKL in the names of single-file checkpoints, one width throughout."""

    def layer(name, out, into, kernel=3):
        yield f"{prefix}{name}.weight", (out, into, kernel, kernel)
        yield f"{prefix}{name}.bias", (out,)

    def norm(name):
        yield f"{prefix}{name}.weight", (_WIDTH,)
        yield f"{prefix}{name}.bias", (_WIDTH,)

    def residual(name):
        for index in (1, 2):
            yield from norm(f"{name}.norm{index}")
            yield from layer(f"{name}.conv{index}", _WIDTH, _WIDTH)

    for half, into, out, way, blocks in (
        ("encoder", 3, 8, "down", 2),
        ("decoder", 4, 3, "up", 3),
    ):
        yield from layer(f"{half}.conv_in", _WIDTH, into)
        for level in range(4):
            for block in range(blocks):
                yield from residual(f"{half}.{way}.{level}.block.{block}")
            if level != (3 if way == "down" else 0):
                yield from layer(f"{half}.{way}.{level}.{way}sample.conv", _WIDTH, _WIDTH)
        for block in ("block_1", "block_2"):
            yield from residual(f"{half}.mid.{block}")
        yield from norm(f"{half}.mid.attn_1.norm")
        for part in ("q", "k", "v", "proj_out"):
            yield from layer(f"{half}.mid.attn_1.{part}", _WIDTH, _WIDTH, 1)
        yield from norm(f"{half}.norm_out")
        yield from layer(f"{half}.conv_out", out, _WIDTH)
    yield from layer("quant_conv", 8, 8, 1)
    yield from layer("post_quant_conv", 4, 4, 1)
