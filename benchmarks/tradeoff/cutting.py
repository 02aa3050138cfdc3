"""Adapters cut after training, on bare factors."""

from collections.abc import Mapping

from torch import Tensor

from lora2_core.layers.low_rank import budget_ranks, even_ranks, singular_values, truncate

Factors = Mapping[str, tuple[Tensor, Tensor]]  # name → (down [r, n], up [m, r])


def parameters(factors: Factors) -> int:
    """Numbers in the factors; a file in half precision has two bytes for each."""
    return sum(down.numel() + up.numel() for down, up in factors.values())


def ranks(factors: Factors) -> dict[str, int]:
    return {name: len(down) for name, (down, _) in factors.items()}


def cut(factors: Factors, budget: int, how: str, even: bool) -> Factors:
    """At most `budget` parameters, but no less than rank 1 everywhere.

    even: the same share of every component; else where it keeps the most energy (svd alone).
    how: `svd` keeps the best directions, `prefix` the first rows.
    """
    costs = [down.shape[1] + up.shape[0] for down, up in factors.values()]
    budget = max(budget, sum(costs))
    if even:
        kept = even_ranks(list(ranks(factors).values()), costs, budget)
    else:
        sigmas = [singular_values(up, down) for down, up in factors.values()]
        kept = budget_ranks(sigmas, costs, budget)
    return {
        name: _first(down, up, rank) if how == "prefix" else _best(down, up, rank)
        for (name, (down, up)), rank in zip(factors.items(), kept, strict=True)
    }


def energy_budget(factors: Factors, share: float) -> int:
    """Parameters of the directions that hold the share of all Σσ², taken where they cost least."""
    costs = [down.shape[1] + up.shape[0] for down, up in factors.values()]
    found = sorted(
        ((value**2 / cost, value**2, cost)
         for (down, up), cost in zip(factors.values(), costs, strict=True)
         for value in singular_values(up, down).tolist()),
        reverse=True,
    )  # fmt: skip
    wanted, spent = share * sum(energy for _, energy, _ in found), 0
    for _, energy, cost in found:
        if wanted <= 0:
            break
        wanted -= energy
        spent += cost
    return spent


def _first(down: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    return down[:rank], up[:, :rank]


def _best(down: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    up, down = truncate(up, down, rank)
    return down, up
