"""Encodes the training set once, so that the denoiser never sees a pixel."""

from pathlib import Path

import torch

from ..networks import build_autoencoder
from . import trunk
from .autoencoder import to_tensor
from .pictures import open_pictures

_BATCH = 50


@torch.no_grad()
def encode(work: Path) -> None:
    """Writes latents.pt, [n, 4, 16, 16] in fp16; goes on where an earlier call stopped."""
    model = build_autoencoder().to(memory_format=torch.channels_last).eval()
    model.load_state_dict(trunk.latest(work, "autoencoder"))
    pictures = open_pictures(work)
    file = work / "latents.pt"
    parts = list(torch.load(file, weights_only=True).split(_BATCH)) if file.exists() else []
    for start in range(len(parts) * _BATCH, len(pictures), _BATCH):
        with torch.autocast("cpu", torch.bfloat16):
            batch = to_tensor(pictures[start : start + _BATCH])
            parts.append(model.encode(batch).latents.half())
        if len(parts) % 20 == 0:
            torch.save(torch.cat(parts), file)
            print(f"{start + _BATCH} of {len(pictures)}", flush=True)
    torch.save(torch.cat(parts), file)
