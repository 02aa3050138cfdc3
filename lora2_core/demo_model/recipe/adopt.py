"""Takes up the training of a checkpoint whose states are gone."""

import json
from pathlib import Path

from safetensors import safe_open

from .. import checkpoint
from . import trunk
from .denoiser import Denoiser


def adopt(work: Path, file: Path) -> None:
    """Writes the states of both runs from what `export` wrote; the optimiser starts afresh."""
    model = checkpoint.load(file)
    with safe_open(file, "pt") as opened:
        training = json.loads(opened.metadata()["training"])
    denoiser = Denoiser(len(model.tokenizer))
    denoiser.unet, denoiser.text = model.unet, model.text
    for name, network in (("autoencoder", model.autoencoder), ("denoiser", denoiser)):
        trunk.begin(work, name, network.state_dict(), training[name])
