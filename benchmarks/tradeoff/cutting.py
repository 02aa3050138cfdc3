"""Adapters cut after training, on bare factors whose rows are in the order of their effect."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from lora2_core.effect.spend import ranks_for_budget, ranks_for_share
from lora2_core.layers.low_rank import singular_values, truncate

from .contestants import WHOLE

Factors = Mapping[str, tuple[Tensor, Tensor]]  # name → (down [r, n], up [m, r])
SHARES = (0.999, 0.99)  # of the effect
THOUSANDS = (61, 31, 15)  # numbers that are left


def parameters(factors: Factors) -> int:
    """Numbers in the factors; a file in half precision has two bytes for each."""
    return sum(down.numel() + up.numel() for down, up in factors.values())


def cuts(
    factors: Factors, effects: Mapping[str, Sequence[float]], size: int
) -> Iterator[tuple[str, Factors]]:
    """(what was cut, factors): the whole; by effect to SHARES; by effect and by σ to THOUSANDS, as
    far as these are less than `size`. A component may come to rank 0.

    effects: name → those of its rows, falling.
    """
    yield WHOLE, factors
    costs = [parameters({name: own}) / len(own[0]) for name, own in factors.items()]
    worth = [torch.tensor(effects[name], dtype=torch.float64) for name in factors]
    for share in SHARES:
        yield f"effect {share:g}", _first(factors, ranks_for_share(worth, costs, share))
    energy = [singular_values(up, down).square() for down, up in factors.values()]
    for thousand in THOUSANDS:
        if thousand * 1000 < size:
            ranks = ranks_for_budget(worth, costs, thousand * 1000)
            yield f"effect {thousand}k", _first(factors, ranks)
            ranks = ranks_for_budget(energy, costs, thousand * 1000)
            yield f"σ {thousand}k", _largest(factors, ranks)


def named(factors: Factors, effects: Mapping[str, Sequence[float]], name: str) -> Factors:
    """The cut of that name."""
    return next(cut for key, cut in cuts(factors, effects, parameters(factors)) if key == name)


def _first(factors: Factors, ranks: Sequence[int]) -> Factors:
    pairs = zip(factors.items(), ranks, strict=True)
    return {name: (down[:rank], up[:, :rank]) for (name, (down, up)), rank in pairs if rank}


def _largest(factors: Factors, ranks: Sequence[int]) -> Factors:
    pairs = zip(factors.items(), ranks, strict=True)
    return {name: truncate(up, down, rank)[::-1] for (name, (down, up)), rank in pairs if rank}
