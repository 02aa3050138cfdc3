"""The learning rate of A and B over a run."""

from collections.abc import Callable

import torch

from ..config import TrainConfig


def rate_factor(config: TrainConfig) -> Callable[[int], float]:
    """Step (0-based) → what the learning rate is multiplied by, by diffusers.optimization.

    The warm-up rises in a straight line from 0 at step 0. A function of the step alone: a run that
    is taken up asks for the next one, and there is nothing to remember.
    """
    if config.lr_scheduler == "constant" and config.lr_warmup_steps == 0:
        return lambda step: 1.0
    from diffusers.optimization import get_scheduler  # takes a second that most runs do not need

    name = "constant_with_warmup" if config.lr_scheduler == "constant" else config.lr_scheduler
    stand_in = torch.optim.SGD([torch.zeros(1)], lr=config.learning_rate)
    scheduler = get_scheduler(
        name,
        stand_in,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=config.steps,
        num_cycles=config.lr_cycles,
        power=config.lr_power,
    )
    return scheduler.lr_lambdas[0]
