"""What a run learns from, and with: the model that --model names, and encoded pictures."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image, ImageOps

from ..backbones.pictures import Folder, read_folder
from ..backbones.pipeline import RESOLUTION, load_checkpoint, load_folder
from ..backbones.prediction import AUTO, Asked
from ..config import TrainConfig
from ..demo_model.backbone import DemoBackbone
from ..demo_model.shapes import PICTURE
from ..diffusion.captions import with_trigger
from ..diffusion.data import Batch, Example, batches, check_examples
from ..diffusion.denoiser import Denoiser
from ..errors import LoRA2Error
from . import samples

_MULTIPLE = 32  # of pixels: the VAE's factor 8, and two halvings in the UNet
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Lesson:
    """own: examples of the subject. prior: of its class. paint: draws the samples, or None. facts:
    about the data, for the file's metadata.
    """

    denoiser: Denoiser
    device: torch.device
    own: list[Example]
    prior: list[Example]
    paint: Callable[[], list[Image.Image]] | None
    facts: dict

    @property
    def examples(self) -> list[Example]:
        return [*self.own, *self.prior]

    def order(self, config: TrainConfig, prior_weight: float) -> Iterator[list[Batch]]:
        """The batches of each step."""
        return batches(
            self.own,
            batch_size=config.batch_size,
            accumulation=config.gradient_accumulation,
            seed=config.seed,
            prior=self.prior,
            prior_weight=prior_weight,
            repeats=config.repeats,
            caption_dropout=config.caption_dropout,
        )


def lesson(options: argparse.Namespace, config: TrainConfig) -> Lesson:
    """Reads all pictures, then loads the model, encodes, and lets the encoders go.

    Raises LoRA2Error, naming it, for what cannot be used.
    """
    started = time.time()
    side = _side(options)
    drawing = samples.drawing(options, side)
    pictures = _pictures(options.images, options.prompt, side)
    others = None
    if options.prior_images is not None:
        others = _pictures(options.prior_images, options.prior_prompt, side)
    backbone = load(options)
    own = _examples(backbone, pictures, config, config.trigger_word)
    prior = [] if others is None else _examples(backbone, others, config)
    paint = None if drawing is None else backbone.painter(drawing)
    backbone.forget_encoders()
    facts = {
        "trigger_words": options.trigger_words or config.trigger_word,
        "train_images": len(pictures.pictures),
        "resolution": (side, side),
        "prediction_type": "v" if backbone.denoiser.predicts_v else "epsilon",
        "started_at": started,
    }
    return Lesson(backbone.denoiser, backbone.device, own, prior, paint, facts)


def load(options: argparse.Namespace):
    """The backbone behind --model; raises LoRA2Error, naming it, for what cannot be trained."""
    text = options.text_encoders
    asked = Asked(options.prediction, options.zero_terminal_snr)
    if options.model == "demo":
        if text:
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
    if path.is_dir():
        return load_folder(path, device=device, dtype=dtype, text_encoders=text, asked=asked)
    if not path.exists():
        raise LoRA2Error(f"{path} does not exist; give `demo`, a folder or a .safetensors file")
    return load_checkpoint(
        path, options.tokenizer, device=device, dtype=dtype, text_encoders=text, asked=asked
    )


def _side(options: argparse.Namespace) -> int:
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


def _pictures(folder: Path, prompt: str | None, side: int) -> Folder:
    found = read_folder(folder, prompt, side)
    for reason in found.skipped:
        print(f"skipped {reason}", file=sys.stderr)
    for remark in found.remarks:
        print(remark, file=sys.stderr)
    for line in found.said:
        print(line, flush=True)
    return found


def _examples(backbone, folder: Folder, config: TrainConfig, word: str = "") -> list[Example]:
    """word: the trigger word of captions. A repeated picture is encoded once."""
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
