"""What the directions of an adapter do to the loss, for a node with model, latents and positive."""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace

from comfy_api.latest import io

from ..lora2_core.config import TrainConfig
from ..lora2_core.diffusion.data import batches, check_examples
from ..lora2_core.errors import LoRA2Error
from ..lora2_core.rank_tools import Adapter, Cut
from ..lora2_core.training.measuring import PASSES, measured
from .host import loader, progress
from .host.model import check_trainable, examples, latent_channels, trainable
from .sockets import ADVANCED, cut

LISTS = ("latents", "positive")  # which the dataset nodes give one at a time


def measure_inputs(model: bool = True) -> list:
    """What `gauge` reads, and `effect`; they stand behind all other inputs. model: whether the node
    has not got one in any case."""
    return [
        *([io.Model.Input(
            "model", optional=True,
            tooltip="Measure on this model, with latents and positive, and keep what does the most "
            "to its loss.",
        )] if model else []),
        io.Latent.Input(
            "latents", optional=True,
            tooltip="Images to measure on, such as those that the LoRA has learned.",
        ),
        io.Conditioning.Input(
            "positive", optional=True, tooltip="Their captions: one for all, or one an image."
        ),
        io.Float.Input(
            "effect", default=0.99, min=0.01, max=1.0, step=0.01, round=0.0001, optional=True,
            tooltip="Share to keep of what all of it does to the loss: of a file that notes that, "
            "or with latents and positive.",
        ),
        io.Int.Input(
            "passes", default=PASSES, min=1, max=10_000, optional=True, extra_dict=ADVANCED,
            tooltip="Forward and backward passes to measure with, an image each.",
        ),
    ]  # fmt: skip


@dataclass(frozen=True)
class Gauge:
    """model: a MODEL. latents, positive: lists of LATENT and of CONDITIONING."""

    model: object
    latents: Sequence
    positive: Sequence
    passes: int

    @property
    def mark(self) -> tuple:
        """By which one is told from another, as long as their latents and conditionings live."""
        return (
            weakref.ref(self.model),
            tuple(map(id, self.latents)),
            tuple(map(id, self.positive)),
            self.passes,
        )

    @property
    def base(self) -> str | None:
        """The model's family, or None for another one."""
        return loader.target_shapes(self.model, None).base

    def measured(self, adapter: Adapter, node_id: str | None) -> Adapter:
        """With its effects on the model; raises LoRA2Error, naming the input, for what cannot be
        measured on."""
        check_trainable(self.model)
        found = examples(self.model, self.latents, self.positive, "latents")
        check_examples(found, latent_channels(self.model))
        config = TrainConfig()
        order = batches(found, batch_size=1, accumulation=1, seed=config.seed)
        with trainable(self.model, config.dtype) as denoiser:
            counter = progress.Counter(node_id)
            found = measured(denoiser, adapter, order, config, self.passes, counter)
        return replace(adapter, effects=found)


def gauge(
    limits: dict, model=None, latents=None, positive=None, passes: int = PASSES
) -> tuple[Gauge | None, Cut]:
    """What to measure on, or None, and the cut that cut_inputs' values (limits) ask for: by effect
    where there is something to measure on, unless it is to be a prefix.

    Raises LoRA2Error if only some of model, latents and positive are connected.
    """
    given = {"model": model, "latents": latents, "positive": positive}
    missing = [name for name, found in given.items() if found is None]
    if len(missing) == len(given):
        return None, cut(**limits)
    if missing:
        raise LoRA2Error(
            f"to measure takes model, latents and positive, and {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not connected; connect all of them, or none"
        )
    if limits.get("how") != "prefix":
        limits = limits | {"how": "effect"}
    limit = cut(**limits)
    return (Gauge(model, latents, positive, passes) if limit.how == "effect" else None), limit
