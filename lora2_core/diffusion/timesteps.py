"""Which noise levels a run trains at."""

import torch
from torch import Tensor


def draw_levels(
    count: int, levels: int, weights: Tensor | None, generator: torch.Generator
) -> Tensor:
    """`count` noise levels [count], int64, each drawn by itself."""
    if weights is None:
        return torch.randint(levels, (count,), generator=generator)
    return torch.multinomial(weights, count, replacement=True, generator=generator)
