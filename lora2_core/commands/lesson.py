"""What a run learns from, and with: the model that --model names, and encoded pictures."""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from PIL import Image

from ..backbones.prediction import Asked
from ..config import TrainConfig
from ..diffusion.data import Batch, Example, batches
from ..diffusion.denoiser import Denoiser
from . import material, samples
from .material import examples_of, pictures_of, side_of


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
    side = side_of(options)
    drawing = samples.drawing(options, side)
    pictures = pictures_of(options.images, options.prompt, side)
    others = None
    if options.prior_images is not None:
        others = pictures_of(options.prior_images, options.prior_prompt, side)
    asked = Asked(options.prediction, options.zero_terminal_snr)
    backbone = material.load(options, asked, options.text_encoders)
    own = examples_of(backbone, pictures, config, config.trigger_word)
    prior = [] if others is None else examples_of(backbone, others, config)
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
