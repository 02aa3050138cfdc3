"""Which directions of all components are worth their bytes [ours]."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Limit(NamedTuple):
    """What all directions may cost together. costs: of one of each component; firsts: what the
    first of each costs beside that."""

    budget: float
    costs: Sequence[float]
    firsts: Sequence[float]


def ranks_for_share(effects: Sequence[Tensor], costs: Sequence[float], share: float) -> list[int]:
    """The ranks that keep that share of all effect: directions leave in order of effect a cost,
    the least first, as long as what has left is no more than the rest.

    effects: of each component's directions, [k], falling. costs: of one direction of each. A
    component may come to rank 0. Without any effect nothing leaves. With share 1 what has none
    does. share: above 0, at most 1.
    """
    ranks = [len(found) for found in effects]
    whole = float(sum(found.sum() for found in effects))
    if not whole > 0:
        return ranks
    allowed, left = (1 - share) * whole, 0.0
    for value, index in reversed(_in_order(effects, costs)):
        left += value
        if left > allowed:
            break
        ranks[index] -= 1
    return ranks


def ranks_for_budget(
    effects: Sequence[Tensor],
    costs: Sequence[float],
    budget: float,
    firsts: Sequence[float] | None = None,
) -> list[int]:
    """The ranks whose costs add up to at most `budget`: directions come in order of effect a cost,
    each that still fits. A component may stay at rank 0; nothing comes that has no effect.

    firsts: what the first direction of each costs beside `costs`; nothing if not given.
    """
    ranks, spent, closed = [0] * len(costs), 0.0, set()
    for value, index in _in_order(effects, costs):
        if value <= 0 or index in closed:
            continue
        cost = costs[index] + (firsts[index] if firsts and ranks[index] == 0 else 0)
        if spent + cost > budget:
            closed.add(index)  # directions come in the order of their component
            continue
        ranks[index] += 1
        spent += cost
    return ranks


def _in_order(effects: Sequence[Tensor], costs: Sequence[float]) -> list[tuple[float, int]]:
    """(effect, component) of every direction, what a cost buys most with first; a component's own
    stay in their order, as the sort is stable."""
    found = [
        (value, index, value / costs[index])
        for index, own in enumerate(effects)
        for value in own.tolist()
    ]
    found.sort(key=lambda one: -one[2])
    return [(value, index) for value, index, _ in found]
