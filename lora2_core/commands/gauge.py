"""A model and pictures on which a command measures what an adapter's directions do to the loss."""

import argparse
from dataclasses import dataclass, replace

from ..config import TrainConfig
from ..diffusion.data import Example, batches
from ..diffusion.denoiser import Denoiser
from ..errors import LoRA2Error
from ..rank_tools import Adapter, Cut
from ..training.measuring import PASSES, base_of, check_passes, measured
from .material_arguments import add_computing, add_model, add_pictures
from .progress import Counter
from .streams import warn


@dataclass(frozen=True)
class Gauge:
    """base: the model's family, or None for another one."""

    denoiser: Denoiser
    examples: list[Example]
    config: TrainConfig
    passes: int

    @property
    def base(self) -> str | None:
        return base_of(self.denoiser)

    def measured(self, adapter: Adapter) -> Adapter:
        """With its effects; raises what training.measuring.measured raises."""
        order = batches(self.examples, batch_size=1, accumulation=1, seed=self.config.seed)
        with Counter("measuring") as counter:
            found = measured(self.denoiser, adapter, order, self.config, self.passes, counter)
        return replace(adapter, effects=found)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "what to measure on",
        "With a model and pictures, what is kept are the directions that do the most to the loss "
        "there. The file then says what each of its rows does, and a later cut needs no model.",
    )
    add_model(group, required=False)
    add_pictures(group, required=False)
    group.add_argument(
        "--passes", type=int, default=PASSES, help="forward and backward passes, a picture each"
    )
    add_computing(group)


def asks_model(options: argparse.Namespace, cut: Cut) -> bool:
    """Whether a model is given and the cut needs it; raises LoRA2Error for half of it."""
    if (options.model is None) != (options.images is None):
        raise LoRA2Error("model and images go together; give both or neither")
    check_passes(options.passes)
    if options.model is not None and cut.how != "effect":
        warn(f"how is {cut.how}, which asks no model; {options.model} is not loaded")
    return options.model is not None and cut.how == "effect"


def gauge(options: argparse.Namespace) -> Gauge:
    """Reads all pictures, then loads the model, encodes, and lets the encoders go.

    Raises LoRA2Error, naming it, for what cannot be used.
    """
    from . import material  # here, since diffusers takes seconds, and a cut without a model none

    config = TrainConfig(dtype=options.dtype, seed=options.seed)
    pictures = material.pictures_of(options.images, options.prompt, material.side_of(options))
    backbone = material.load(options)
    examples = material.examples_of(backbone, pictures, config)
    backbone.forget_encoders()
    return Gauge(backbone.denoiser, examples, config, options.passes)
