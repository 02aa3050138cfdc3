"""The demo model's file as names and tensors, in the layout of SDXL checkpoints."""

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from .text import Tokenizer

UNET = "model.diffusion_model."
AUTOENCODER = "first_stage_model."
TEXT = "conditioner.embedders.0."
SDXL_SCALE = 0.13025


def read_state(path: Path) -> tuple[dict[str, Tensor], Tokenizer]:
    """The weights in fp32 under the file's own names, and the tokenizer."""
    with safe_open(path, "pt") as file:
        tokenizer = Tokenizer(json.loads(file.metadata()["words"]))
    return {key: value.float() for key, value in load_file(path).items()}, tokenizer
