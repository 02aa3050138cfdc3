"""The learning rate of A and B over a run."""

import math
from collections.abc import Callable

from ..config import TrainConfig

_LAST_RATE = 1e-7  # where polynomial ends


def rate_factor(config: TrainConfig) -> Callable[[int], float]:
    """Step (0-based) → what the learning rate is multiplied by, as diffusers.optimization has it.

    The warm-up rises in a straight line from 0 at step 0. A function of the step alone: a run that
    is taken up asks for the next one, and there is nothing to remember.
    """
    warm, shape = config.lr_warmup_steps, _shape(config)

    def factor(step: int) -> float:
        if step < warm:
            return step / warm
        return shape((step - warm) / (config.steps - warm))

    return factor


def _shape(config: TrainConfig) -> Callable[[float], float]:
    """Share of the run after the warm-up, 0 ≤ p < 1 → factor."""

    def cosine(p: float) -> float:
        return (1 + math.cos(math.pi * p)) / 2

    last = _LAST_RATE / config.learning_rate
    return {
        "constant": lambda p: 1.0,
        "linear": lambda p: 1 - p,
        "cosine": cosine,
        "cosine_with_restarts": lambda p: cosine(config.lr_cycles * p % 1),
        "polynomial": lambda p: last + (1 - last) * (1 - p) ** config.lr_power,
    }[config.lr_scheduler]
