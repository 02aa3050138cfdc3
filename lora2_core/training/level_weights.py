"""Which noise levels a run favours."""

import torch
from torch import Tensor

from ..config import TrainConfig
from ..errors import LoRA2Error


def level_weights(config: TrainConfig, levels: int) -> Tensor | None:
    """Chance of each noise level up to a factor, [levels]; None: all alike.

    The choices of diffusers' SDXL training script: `earlier` favours the share
    timestep_bias_portion with the least noise, `later` that with the most, `range` the levels from
    timestep_bias_begin up to, without, timestep_bias_end. Raises LoRA2Error for a range that the
    model has not.
    """
    if config.timestep_bias == "none":
        return None
    count = int(config.timestep_bias_portion * levels)
    begin, end = {
        "earlier": (0, count),
        "later": (levels - count, levels),
        "range": (config.timestep_bias_begin, config.timestep_bias_end),
    }[config.timestep_bias]
    if end > levels:
        raise LoRA2Error(
            f"timestep_bias_end is {end}, but the model has {levels} noise levels; choose at most "
            f"{levels}"
        )
    weights = torch.ones(levels)
    weights[begin:end] *= config.timestep_bias_multiplier
    return weights
