"""An adapter as if its effects had been measured."""

from dataclasses import replace

import torch

from lora2_core.effect.measure import Directions
from lora2_core.rank_tools import Adapter


def with_effects(adapter: Adapter) -> Adapter:
    """One component after the other does ten times less, seven times over."""
    effects = {
        name: Directions(None, torch.full((stored.rank,), 10.0 ** -(number % 7)).double(), None)
        for number, (name, stored) in enumerate(adapter.components.items())
    }
    return replace(adapter, effects=effects)
