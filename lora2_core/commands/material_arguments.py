"""Arguments for a model, pictures to ask it about, and how it computes: of `train`, and of what
measures on a model."""

import argparse
from pathlib import Path

import torch

from ..config import DTYPES, TrainConfig
from .words import words

_D = TrainConfig()


def add_model(group: argparse._ArgumentGroup, required: bool) -> None:
    """--model and --tokenizer."""
    group.add_argument(
        "--model",
        required=required,
        help="`demo` for the bundled model, a diffusers folder, or a single-file SDXL or KOALA "
        "checkpoint (.safetensors)",
    )
    group.add_argument(
        "--tokenizer",
        type=Path,
        help="folder with CLIP's vocab.json and merges.txt, "
        "for a single-file checkpoint (comfy/sd1_tokenizer of a ComfyUI)",
    )


def add_pictures(group: argparse._ArgumentGroup, required: bool) -> None:
    """--images, --prompt and --resolution."""
    group.add_argument(
        "--images",
        type=Path,
        required=required,
        help="folder of four to six pictures or more; a .txt or .caption file beside a picture is "
        "its caption",
    )
    group.add_argument(
        "--prompt",
        type=words,
        help='caption of all other pictures, such as "a sks dog": a rare '
        "word for the individual, and its class",
    )
    group.add_argument(
        "--resolution",
        type=int,
        help="side of the square that pictures are cut to (default: what the model was made for)",
    )


def add_computing(group: argparse._ArgumentGroup) -> None:
    """--dtype, --seed and --device."""
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        default=_D.dtype,
        help="of the forward pass; the adapter itself is always fp32",
    )
    group.add_argument("--seed", type=int, default=_D.seed)
    group.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
