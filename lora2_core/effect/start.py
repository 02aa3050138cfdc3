"""Where rows pay before anything was learned: ranks and directions by the loss's gradient [ours].

With ΔW = B A and B = 0 the first thing that training moves is B, by G Aᵀ, where G = E[g xᵀ] is the
gradient of the loss by ΔW. Rows of A outside of G's leading right directions move next to nothing.
Their σ are on one scale for all components, as all are derivatives of the one loss.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .spend import ranks_for_budget


class Leading(NamedTuple):
    """directions: orthonormal rows [k, n], fp64. gains: σ² of each [k], falling."""

    directions: Tensor
    gains: Tensor


def leading(sketch: Tensor) -> Leading:
    """Right directions of G [m, n] that do the most, seen through Ω G [k, n], where the entries of
    Ω [k, m] are independent, of mean 0 and variance 1/k: then the mean of (Ω G)ᵀ Ω G is Gᵀ G
    [Halko, Martinsson and Tropp 2011, section 4]. Raises LinAlgError for what is not finite.
    """
    sketch = sketch.double()
    if not torch.isfinite(sketch).all():
        raise torch.linalg.LinAlgError("a gradient is not finite")
    _, sigmas, directions = torch.linalg.svd(sketch, full_matrices=False)
    return Leading(directions, sigmas.square())


def starting_ranks(
    gains: Sequence[Tensor], costs: Sequence[float], budget: float, highest: Sequence[int]
) -> list[int]:
    """The ranks of which the directions gain the most for their cost, all together at most
    `budget`; but one for every component, whatever that costs.

    gains: of each component's directions [k], falling. costs: of one direction of each. highest:
    the rank that each may have.
    """
    further = [own[1:most] for own, most in zip(gains, highest, strict=True)]
    return [1 + more for more in ranks_for_budget(further, costs, budget - sum(costs))]
