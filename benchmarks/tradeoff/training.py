"""One contestant trained on one lesson, its rows in the order of their effect."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from lora2_core.config import TrainConfig
from lora2_core.diffusion.data import batches
from lora2_core.effect.measure import best
from lora2_core.files.adapter_file import pack
from lora2_core.files.module_names import kohya_name
from lora2_core.layers.inject import find_layers
from lora2_core.rank_tools import open_adapter
from lora2_core.training import measuring
from lora2_core.training.loop import train

from .contestants import Contestant
from .cutting import Factors, parameters
from .external import LIBRARIES
from .lesson import Lesson, denoiser

PASSES = measuring.PASSES


@dataclass(frozen=True)
class Trained:
    """factors: name → (down [r, n], up [m, r]), the row of most effect first. effects: name →
    those of its rows. parameters: numbers in the contestant's own file. components: layers that
    were adapted, with or without a row in the end. seconds: of the training alone.
    """

    factors: Factors
    effects: Mapping[str, tuple[float, ...]]
    parameters: int
    components: int
    seconds: float

    def mean_rank(self, factors: Factors) -> float:
        """Of a cut, over all layers that were adapted."""
        return sum(len(down) for down, _ in factors.values()) / self.components


def trained(contestant: Contestant, lesson: Lesson, rate: float) -> Trained:
    """Raises TrainingDiverged, or Diverged of another's library."""
    config = contestant.config(rate, lesson.task.steps, lesson.seed)
    order = _order(lesson)
    started = time.perf_counter()
    if contestant.library is None:
        result = train(denoiser(), order, config)
        factors, effects, size = result.factors, result.effects, parameters(result.factors)
    else:
        factors, size = LIBRARIES[contestant.library](denoiser(), order, config)
        effects = {}
    seconds = time.perf_counter() - started
    if not effects:
        factors, effects = _by_effect(factors, lesson, config)
    components = len(find_layers(denoiser().network, config.targets))
    return Trained(factors, effects, size, components, seconds)


def _order(lesson: Lesson):
    return batches(lesson.examples, batch_size=1, accumulation=1, seed=lesson.seed)


def _by_effect(factors: Factors, lesson: Lesson, config: TrainConfig):
    """(factors, effects) of the same update, measured on the training pictures."""
    if not factors:
        return {}, {}
    adapter = open_adapter(pack(factors, metadata={}), "adapter")
    measured = measuring.measured(denoiser(), adapter, _order(lesson), config, PASSES)
    new, effects = {}, {}
    for name, (down, up) in factors.items():
        found = measured[kohya_name(name)]
        new_up, new_down = best(up, down, found, len(found.effects))
        new[name] = new_down.float(), new_up.float()
        effects[name] = tuple(found.effects.tolist())
    return new, effects
