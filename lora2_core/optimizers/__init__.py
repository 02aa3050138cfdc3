"""Which optimiser moves A and B; one a module."""

from torch import nn

from ..config import TrainConfig
from ..layers.adapter import Adapter
from .adafactor import RowAdafactor
from .adamw import RowAdamW
from .adamw8bit import RowAdamW8bit
from .prodigy import RowProdigy
from .rows import RowOptimizer

_FASTEST = 0.5  # of ρ in a step; a trial of a few steps would throw every rank to an end

_KINDS = {
    "adamw": RowAdamW,
    "adamw8bit": RowAdamW8bit,
    "adafactor": RowAdafactor,
    "prodigy": RowProdigy,
}


def make_optimizer(
    config: TrainConfig, adapters: list[Adapter], rho: nn.Parameter | None
) -> RowOptimizer:
    """The optimiser of a run; raises LoRA2Error, saying what to install, if its library is absent.

    adapters: with Adam's moments for `adamw`, without for the others.
    """
    return _KINDS[config.optimizer](
        adapters,
        rho,
        learning_rate=config.learning_rate,
        rho_learning_rate=min(config.rank_rate / config.steps, _FASTEST),
        weight_decay=config.weight_decay,
    )
