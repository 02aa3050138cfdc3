"""Trains the denoiser and the text encoder together: ε-prediction on SDXL's schedule."""

import random
from pathlib import Path

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional as F

from ...backbones.diffusers_unet import DiffusersUNet
from ...drawn_world.scene import vocabulary
from ..networks import build_unet
from ..shapes import PICTURE
from ..text import TextEncoder, Tokenizer
from . import trunk
from .pictures import read_captions

_BATCH = 64
_RATE = 1e-3
_NO_CAPTION = 0.1  # share of empty captions, for guidance
_RARE_WORD = 0.1  # share of captions with a rare word before the object: it must mean nothing yet
_GAMMA = 5.0  # min-SNR


class Denoiser(nn.Module):
    """UNet and text encoder, trained as one."""

    def __init__(self, words: int):
        super().__init__()
        self.unet = build_unet()
        self.text = TextEncoder(words)


def train(work: Path, minutes: float, cooldown: float) -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer(vocabulary())
    latents = torch.load(work / "latents.pt", weights_only=True)
    captions = read_captions(work)[: len(latents)]
    model = Denoiser(len(tokenizer))
    schedule = DiffusersUNet(model.unet)
    model.unet.requires_grad_(True).train()
    # at 64 tokens and fewer, the backward of a CPU's fused attention takes a third of a step
    model.unet.set_attn_processor(AttnProcessor())
    order = trunk.shuffled(len(latents), _BATCH)
    size = torch.tensor([[PICTURE, PICTURE, 0, 0, PICTURE, PICTURE]] * _BATCH).float()

    def loss_of(model: Denoiser, step: int) -> Tensor:
        chosen = next(order)
        texts = [_vary(captions[i]) for i in chosen.tolist()]
        clean = latents[chosen].float()
        t = torch.randint(schedule.timesteps, (_BATCH,))
        noisy, noise = schedule.corrupt(clean, torch.randn_like(clean), t)
        context, pooled = model.text(torch.tensor([tokenizer.encode(text) for text in texts]))
        conditioning = {"context": context, "pooled": pooled, "time_ids": size}
        with torch.autocast("cpu", torch.bfloat16):
            found = schedule.predict(noisy, t, conditioning)
        error = F.mse_loss(found.float(), noise, reduction="none").mean((1, 2, 3))
        return (error * schedule.snr(t).reciprocal().mul(_GAMMA).clamp(max=1)).mean()

    trunk.run(
        "denoiser", work, model, loss_of,
        learning_rate=_RATE, images_a_step=_BATCH, minutes=minutes, cooldown=cooldown,
    )  # fmt: skip


def _vary(caption: str) -> str:
    """The caption as it is, empty, or with a rare word after its article."""
    draw = random.random()
    if draw < _NO_CAPTION:
        return ""
    if draw < _NO_CAPTION + _RARE_WORD:
        article, _, rest = caption.partition(" ")
        return f"{article} sks {rest}"
    return caption
