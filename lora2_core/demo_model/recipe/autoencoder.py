"""Trains the autoencoder: L1 on pixels and on their differences, latents held near unit scale."""

from pathlib import Path

import torch
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks import build_autoencoder
from . import trunk
from .pictures import open_pictures

_BATCH = 8
_RATE = 1e-3
_HALF_SIZE = 2500  # steps at half the side and twice the batch: a quick start
_NOISE = 0.05  # added to latents: what a denoiser leaves must not show


def train(work: Path, minutes: float, cooldown: float) -> None:
    torch.manual_seed(0)
    pictures = open_pictures(work)
    order = trunk.shuffled(len(pictures), _BATCH)
    model = build_autoencoder().to(memory_format=torch.channels_last)
    _initialise(model)

    def loss_of(model: nn.Module, step: int) -> Tensor:
        chosen = next(order)
        if step < _HALF_SIZE:
            chosen = torch.cat([chosen, next(order)])
        batch = to_tensor(pictures[chosen.sort().values.numpy()])
        if step < _HALF_SIZE:
            batch = F.avg_pool2d(batch, 2)
        with torch.autocast("cpu", torch.bfloat16):
            latents = model.encode(batch).latents.float()
            seen = model.decode(latents + _NOISE * torch.randn_like(latents)).sample.float()
        return (seen - batch).abs().mean() + _differences(seen, batch) + 0.02 * _scale(latents)

    trunk.run(
        "autoencoder", work, model, loss_of,
        learning_rate=_RATE, images_a_step=_BATCH, minutes=minutes, cooldown=cooldown,
    )  # fmt: skip


def train_decoder(work: Path, minutes: float, cooldown: float) -> None:
    """Sharpens the decoder alone: what was encoded before stays valid, and so does the denoiser."""
    torch.manual_seed(0)
    pictures = open_pictures(work)
    order = trunk.shuffled(len(pictures), _BATCH)
    model = build_autoencoder().to(memory_format=torch.channels_last)
    model.load_state_dict(trunk.latest(work, "autoencoder"))
    model.encoder.requires_grad_(False)

    def loss_of(model: nn.Module, step: int) -> Tensor:
        batch = to_tensor(pictures[next(order).sort().values.numpy()])
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                latents = model.encode(batch).latents.float()
            seen = model.decode(latents + _NOISE * torch.randn_like(latents)).sample.float()
        return (seen - batch).abs().mean() + _differences(seen, batch)

    trunk.run(
        "decoder", work, model, loss_of,
        learning_rate=_RATE, images_a_step=_BATCH, minutes=minutes, cooldown=cooldown,
    )  # fmt: skip


def _initialise(model: nn.Module) -> None:
    """He's scale all along the main path; residual branches start at zero."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for block in model.modules():
        if isinstance(block, AutoencoderTinyBlock):
            nn.init.zeros_(block.conv[-1].weight)


def to_tensor(pictures) -> Tensor:
    """uint8 [b, h, w, 3] → [b, 3, h, w] in −1..1, channels last in memory."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def _differences(seen: Tensor, true: Tensor) -> Tensor:
    """L1 between the differences of neighbouring pixels, both ways: edges stay sharp."""
    error = seen - true
    across, down = error.diff(dim=3).abs().mean(), error.diff(dim=2).abs().mean()
    return across + down


def _scale(latents: Tensor) -> Tensor:
    """Distance of each channel's mean from 0 and of its std from 1."""
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    return (mean**2 + (std - 1) ** 2).sum()
