"""A trained adapter in the order of its directions' effects, and cut by them [ours]."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..layers.parallel import in_order
from .measure import Directions, Moments, best, directions
from .spend import Limit, ranks_for_budget, ranks_for_share

Factors = tuple[Tensor, Tensor]  # down [r, n…] and up [m, r…]


@dataclass(frozen=True)
class Ordered:
    """factors: component → its factors, the direction of most effect first; one that is left with
    none is missing. effects: component → those of the directions that are left, falling."""

    factors: dict[str, Factors]
    effects: dict[str, tuple[float, ...]]


def ordered(
    factors: Mapping[str, Factors],
    moments: Sequence[Moments],
    share: float = 1.0,
    cut: bool = True,
    limit: Limit | None = None,
) -> Ordered:
    """The same adapter with as many directions as it takes to keep that share of its effect; all of
    them if not `cut`, or if nothing has any effect. And with no more than the limit allows.

    moments: of each component, in the order of `factors`. Raises torch.linalg.LinAlgError for
    moments that are not finite.
    """
    found = list(in_order(_on_cpu, moments))
    costs = [_cost(one) for one in factors.values()]
    ranks = [len(one.effects) for one in found]
    effects = [one.effects for one in found]
    known = any(bool(own.any()) for own in effects)
    if cut and known:
        ranks = ranks_for_share(effects, costs, share)
    if limit is not None:  # where nothing is known, what costs the least comes first
        wanted = effects if known else [torch.ones_like(own) for own in effects]
        ranks = list(
            map(min, ranks, ranks_for_budget(wanted, limit.costs, limit.budget, limit.firsts))
        )
    new, kept = {}, {}
    for (name, own), one, rank in zip(factors.items(), found, ranks, strict=True):
        kept[name] = tuple(one.effects[:rank].tolist())
        if rank and not one.effects.any():  # in no order, and in none that is worse
            new[name] = _first(own, rank)
        elif rank:
            new[name] = _turned(own, one, rank)
    return Ordered(new, kept)


def _on_cpu(moments: Moments) -> Directions:
    return directions(Moments(*(part.detach().cpu() for part in moments)))


def _cost(factors: Factors) -> int:
    """Numbers of one direction, m + n."""
    down, up = factors
    return down[0].numel() + up.shape[0]


def _first(factors: Factors, rank: int) -> Factors:
    down, up = factors
    return down[:rank], up[:, :rank].contiguous()


def _turned(factors: Factors, found: Directions, rank: int) -> Factors:
    """In the layer's own shapes, fp32."""
    down, up = factors
    new_up, new_down = best(up.flatten(1), down.flatten(1), found, rank)
    return (
        new_down.float().view(rank, *down.shape[1:]),
        new_up.float().view(up.shape[0], rank, *up.shape[2:]),
    )
