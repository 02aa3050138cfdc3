"""Trains the autoencoder on pixels and on their differences, latents held near unit scale."""

from pathlib import Path

import torch
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks import build_autoencoder
from . import trunk
from .pictures import open_pictures

_BATCH = 8
_RATE = 4e-4
_HALF_SIZE = 900  # steps at half the side and twice the batch: a quick start
_CROP = 64  # px: a picture's quarter teaches as much a pixel, and costs a quarter of the time
_SMALL = 0.2  # of a range of 2
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
        batch = F.avg_pool2d(batch, 2) if step < _HALF_SIZE else _crop(batch)
        with torch.autocast("cpu", torch.bfloat16):
            latents = model.encode(batch).latents.float()
            seen = model.decode(latents + _NOISE * torch.randn_like(latents)).sample.float()
        return _distance(seen, batch) + 0.02 * _scale(latents)

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
        batch = _crop(to_tensor(pictures[next(order).sort().values.numpy()]))
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                latents = model.encode(batch).latents.float()
            seen = model.decode(latents + _NOISE * torch.randn_like(latents)).sample.float()
        return _distance(seen, batch)

    trunk.run(
        "decoder", work, model, loss_of,
        learning_rate=_RATE, images_a_step=_BATCH, minutes=minutes, cooldown=cooldown,
    )  # fmt: skip


def _crop(batch: Tensor) -> Tensor:
    """Of each picture [b, 3, h, w] another window, [b, 3, _CROP, _CROP]."""
    corners = torch.randint(batch.shape[-1] - _CROP + 1, (len(batch), 2)).tolist()
    parts = [p[:, y : y + _CROP, x : x + _CROP] for p, (y, x) in zip(batch, corners, strict=True)]
    return torch.stack(parts).contiguous(memory_format=torch.channels_last)


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


def _distance(seen: Tensor, true: Tensor) -> Tensor:
    """Of pixels and of their differences both ways, so that edges stay sharp.

    Quadratic up to an error of _SMALL: plain L1 pulls as hard on the hardly visible noise of a
    wide background as on an object that is still a blur.
    """
    error = seen - true
    parts = (error, error.diff(dim=3), error.diff(dim=2))
    return sum(F.smooth_l1_loss(part, torch.zeros_like(part), beta=_SMALL) for part in parts)


def _scale(latents: Tensor) -> Tensor:
    """Distance of each channel's mean from 0 and of its std from 1."""
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    return (mean**2 + (std - 1) ** 2).sum()
