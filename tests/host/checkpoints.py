"""Checkpoints with random weights in real shapes, which the host's own loader takes.

Written when a test first asks, into the folder of a running host:

    model, clip, vae = checkpoints.load(host, graph, "small_koala")
    text = graph.node("CLIPTextEncode", clip=clip, text="a dog")

The text encoders are CLIP-L and CLIP-G in full size, because the host builds SDXL's no other way.
They are by far the largest part, so they are written once, into small_koala: the other checkpoints
hold a UNet alone and load() takes clip and vae from small_koala.
"""

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import torch
from host.comfy_host import ComfyHost, Graph
from safetensors.torch import save_file
from unet_shapes import KOALA_700M, KOALA_SMALL, PREFIX, SDXL_SMALL, Shape, unet_shapes

UNETS = {"small_koala": KOALA_SMALL, "small_sdxl": SDXL_SMALL, "koala_700m": KOALA_700M}
COMPLETE = "small_koala"
_VOCABULARY, _POSITIONS = 49408, 77


class Loaded(NamedTuple):
    """Links to a loaded checkpoint's parts."""

    model: list
    clip: list
    vae: list


def load(host: ComfyHost, graph: Graph, name: str) -> Loaded:
    """Adds the loaders of a checkpoint of UNETS to graph, and writes its file if need be."""
    model = graph.node("CheckpointLoaderSimple", ckpt_name=place(host, name))
    rest = model
    if name != COMPLETE:
        rest = graph.node("CheckpointLoaderSimple", ckpt_name=place(host, COMPLETE))
    return Loaded(model[0], rest[1], rest[2])


def place(host: ComfyHost, name: str) -> str:
    """Writes models/checkpoints/<name>.safetensors unless it is there; returns the file's name."""
    file = host.base / "models" / "checkpoints" / f"{name}.safetensors"
    if not file.exists():
        shapes = {PREFIX + key: shape for key, shape in unet_shapes(UNETS[name]).items()}
        if name == COMPLETE:
            shapes |= dict(clip_l("conditioner.embedders.0.transformer.text_model."))
            shapes |= dict(clip_g("conditioner.embedders.1.model."))
            shapes |= dict(_taesd("first_stage_model."))
        save_file(random_weights(shapes), file)
    return file.name


def random_weights(shapes: dict[str, Shape], seed: int = 0) -> dict[str, torch.Tensor]:
    """fp16 weights that keep the size of what runs through them: N(0, 1/fan_in), norms at one.

    All are cut from one pool of normal numbers, scaled once for each fan_in: a billion fresh ones
    would take half a minute. The pool's odd length keeps rows from repeating.
    """
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(2**22 + 43, generator=generator)
    scaled: dict[float, torch.Tensor] = {}
    weights = {}
    for name, shape in shapes.items():
        if len(shape) < 2:
            at_one = name.endswith(("weight", "scale"))
            weights[name] = torch.full(shape, float(at_one), dtype=torch.half)
            continue
        std = 0.02 if "embedding" in name else prod(shape[1:]) ** -0.5
        if std not in scaled:
            scaled[std] = (pool * std).half()
        start = int(torch.randint(len(pool), (1,), generator=generator))
        weights[name] = _cut(scaled[std], start, prod(shape)).view(shape)
        if name.endswith("taesd_decoder.19.weight"):
            weights[name] *= 0.2  # few pixels at black or white
    return weights


def _cut(pool: torch.Tensor, start: int, count: int) -> torch.Tensor:
    """count values of pool from start on, beginning again at its end."""
    pieces = []
    while count > 0:
        pieces.append(pool[start : start + count])
        count, start = count - len(pieces[-1]), 0
    return torch.cat(pieces)


def clip_l(
    prefix: str, width: int = 768, layers: int = 12, words: int = _VOCABULARY
) -> Iterator[tuple[str, Shape]]:
    """The names of transformers' CLIPTextModel."""
    yield f"{prefix}embeddings.token_embedding.weight", (words, width)
    yield f"{prefix}embeddings.position_embedding.weight", (_POSITIONS, width)
    for i in range(layers):
        layer = f"{prefix}encoder.layers.{i}."
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _affine(f"{layer}self_attn.{part}", (width, width))
        yield from _affine(f"{layer}mlp.fc1", (4 * width, width))
        yield from _affine(f"{layer}mlp.fc2", (width, 4 * width))
        yield from _affine(f"{layer}layer_norm1", (width,))
        yield from _affine(f"{layer}layer_norm2", (width,))
    yield from _affine(f"{prefix}final_layer_norm", (width,))


def clip_g(
    prefix: str, width: int = 1280, layers: int = 32, words: int = _VOCABULARY
) -> Iterator[tuple[str, Shape]]:
    """The names of OpenCLIP, as in published SDXL checkpoints."""
    yield f"{prefix}token_embedding.weight", (words, width)
    yield f"{prefix}positional_embedding", (_POSITIONS, width)
    for i in range(layers):
        layer = f"{prefix}transformer.resblocks.{i}."
        yield f"{layer}attn.in_proj_weight", (3 * width, width)
        yield f"{layer}attn.in_proj_bias", (3 * width,)
        yield from _affine(f"{layer}attn.out_proj", (width, width))
        yield from _affine(f"{layer}mlp.c_fc", (4 * width, width))
        yield from _affine(f"{layer}mlp.c_proj", (width, 4 * width))
        yield from _affine(f"{layer}ln_1", (width,))
        yield from _affine(f"{layer}ln_2", (width,))
    yield from _affine(f"{prefix}ln_final", (width,))
    yield f"{prefix}text_projection", (width, width)


def _taesd(prefix: str, width: int = 64, latent: int = 4) -> Iterator[tuple[str, Shape]]:
    """The tiny autoencoder, which the host takes for a VAE; SDXL's own is 30 times slower here."""
    yield f"{prefix}vae_scale", ()
    yield f"{prefix}vae_shift", ()
    plans = {  # index -> channels in and out of a 3×3 convolution, or a block of three
        "taesd_encoder": ({0: (3, width), 14: (width, latent)}, (2, 6, 10), (1, *_BLOCKS_DOWN)),
        "taesd_decoder": ({1: (latent, width), 19: (width, 3)}, (7, 12, 17), (*_BLOCKS_UP, 18)),
    }
    for half, (ends, plain, blocks) in plans.items():
        for i, (ch, out) in ends.items():
            yield from _affine(f"{prefix}{half}.{i}", (out, ch, 3, 3))
        for i in plain:
            yield f"{prefix}{half}.{i}.weight", (width, width, 3, 3)
        for i in blocks:
            for conv in (0, 2, 4):
                yield from _affine(f"{prefix}{half}.{i}.conv.{conv}", (width, width, 3, 3))


_BLOCKS_DOWN = (3, 4, 5, 7, 8, 9, 11, 12, 13)
_BLOCKS_UP = (3, 4, 5, 8, 9, 10, 13, 14, 15)


def _affine(name: str, shape: Shape) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]
