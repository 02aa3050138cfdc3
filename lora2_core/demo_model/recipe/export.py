"""Puts the trained parts into one checkpoint."""

import json
from pathlib import Path

from ...drawn_world.scene import vocabulary
from .. import checkpoint
from ..networks import build_autoencoder
from ..text import Tokenizer
from . import trunk
from .denoiser import Denoiser


def export(work: Path, file: Path) -> None:
    """Writes the averaged weights of both runs to `file`, with the record of their training."""
    tokenizer = Tokenizer(vocabulary())
    denoiser = Denoiser(len(tokenizer))
    denoiser.load_state_dict(trunk.latest(work, "denoiser"))
    autoencoder = build_autoencoder()
    names = ["autoencoder", "denoiser"]
    if (work / "decoder.json").exists():  # the autoencoder with a better decoder
        names.append("decoder")
    autoencoder.load_state_dict(trunk.latest(work, "decoder" if "decoder" in names else names[0]))
    model = checkpoint.DemoModel(denoiser.unet, autoencoder, denoiser.text, tokenizer)
    training = {name: json.loads((work / f"{name}.json").read_text()) for name in names}
    checkpoint.save(model, file, training)
