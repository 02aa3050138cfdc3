"""The model that --model names, and folders of pictures, encoded by it."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from PIL import ImageOps

from ..backbones.pictures import Folder, read_folder
from ..backbones.pipeline import RESOLUTION, load_checkpoint, load_folder
from ..backbones.prediction import AUTO, Asked
from ..config import TrainConfig
from ..demo_model.backbone import DemoBackbone
from ..demo_model.shapes import PICTURE
from ..diffusion.captions import with_trigger
from ..diffusion.data import Example, check_examples
from ..errors import LoRA2Error

_MULTIPLE = 32  # of pixels: the VAE's factor 8, and two halvings in the UNet
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def load(options: argparse.Namespace, asked: Asked = AUTO, text_encoders: bool = False):
    """The backbone behind --model; raises LoRA2Error, naming it, for what cannot be trained.

    asked: what it is to predict, if not what it says itself. text_encoders: whether they are
    trained, too.
    """
    if options.model == "demo":
        if text_encoders:
            raise LoRA2Error(
                "text-encoders is set, but that of the demo model is a list of words; leave it out"
            )
        if asked != AUTO:
            raise LoRA2Error(
                "prediction and zero-terminal-snr are those of the demo model; leave them out"
            )
        return DemoBackbone()
    path = Path(options.model)
    device = _device(options.device)
    dtype = torch.float32 if device.type == "cpu" else _DTYPES[options.dtype]
    chosen = {"device": device, "dtype": dtype, "text_encoders": text_encoders, "asked": asked}
    if path.is_dir():
        return load_folder(path, **chosen)
    if not path.exists():
        raise LoRA2Error(f"{path} does not exist; give `demo`, a folder or a .safetensors file")
    return load_checkpoint(path, options.tokenizer, **chosen)


def side_of(options: argparse.Namespace) -> int:
    """Of the square that pictures are cut to; raises LoRA2Error for one that does not fit."""
    side = options.resolution
    if side is None:
        return PICTURE if options.model == "demo" else RESOLUTION
    if side < _MULTIPLE or side % _MULTIPLE:
        raise LoRA2Error(f"resolution is {side}; choose a multiple of {_MULTIPLE}")
    return side


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise LoRA2Error(f"device {name!r} cannot be used ({error}); choose cpu or cuda") from None
    return device


def pictures_of(folder: Path, prompt: str | None, side: int) -> Folder:
    """Read, and said what of it was; raises what read_folder raises."""
    found = read_folder(folder, prompt, side)
    for reason in found.skipped:
        print(f"skipped {reason}", file=sys.stderr)
    for remark in found.remarks:
        print(remark, file=sys.stderr)
    for line in found.said:
        print(line, flush=True)
    return found


def examples_of(backbone, folder: Folder, config: TrainConfig, word: str = "") -> list[Example]:
    """The pictures, encoded; a repeated one is encoded once. word: the trigger word of captions."""
    pictures = [(picture, with_trigger(caption, word)) for picture, caption in folder.pictures]
    repeats = folder.repeats
    if config.horizontal_flip:
        pictures = [*pictures, *((ImageOps.mirror(p), caption) for p, caption in pictures)]
        repeats = [*repeats, *repeats]
    examples = [backbone.example(picture, caption) for picture, caption in pictures]
    if config.caption_dropout > 0:
        empty = backbone.conditioning(pictures[0][0].size, "")  # all are of one size
        examples = [replace(example, empty=empty) for example in examples]
    check_examples(examples, backbone.channels)
    return [e for e, times in zip(examples, repeats, strict=True) for _ in range(times)]
