"""How much of an adapter is to be kept."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..effect.spend import ranks_for_budget, ranks_for_share
from ..errors import LoRA2Error
from ..layers.low_rank import budget_ranks, even_ranks

HOW = ("svd", "prefix", "effect")
_ROUNDING = 4 * torch.finfo(torch.float32).eps  # in which factors are computed


@dataclass(frozen=True)
class Cut:
    """At most one of: rank, a cap for every component; energy, a share of each component's Σσ²
    (share_rank); megabytes (10⁶ bytes), of the whole file; effect, a share of what the whole file
    does to the loss.

    how: `svd` keeps the largest directions, `prefix` the first rows, which is LoRA²'s own
    truncation, `effect` those that do the most to the loss, of which a component may lose all.
    Raises LoRA2Error, naming the value.
    """

    rank: int | None = None
    energy: float | None = None
    megabytes: float | None = None
    how: str = "svd"
    effect: float | None = None

    def __post_init__(self):
        limits = (self.rank, self.energy, self.megabytes, self.effect)
        if sum(v is not None for v in limits) > 1:
            raise LoRA2Error(
                "rank, energy, megabytes and effect exclude each other; give one of them"
            )
        if self.rank is not None and self.rank < 1:
            raise LoRA2Error(f"rank is {self.rank}; give at least 1")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise LoRA2Error(f"energy is {self.energy}; give a share above 0 and at most 1")
        if self.megabytes is not None and not self.megabytes > 0:
            raise LoRA2Error(f"megabytes is {self.megabytes}; give a size above 0")
        if self.how not in HOW:
            raise LoRA2Error(f"how is {self.how!r}; choose one of {', '.join(HOW)}")
        if self.effect is not None:
            if not 0 < self.effect <= 1:
                raise LoRA2Error(
                    f"the share of the effect is {self.effect}; give one above 0 and at most 1"
                )
            object.__setattr__(self, "how", "effect")
        elif self.how == "effect" and self.energy is not None:
            raise LoRA2Error(
                f"energy is {self.energy}, which is a share of Σσ², and how is effect; give a "
                "share of the effect instead"
            )

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is cut."""
        limits = (self.rank, self.energy, self.megabytes, self.effect)
        return all(v is None for v in limits)

    @property
    def needs_all(self) -> bool:
        """Whether the rank of one component depends on the others."""
        return self.megabytes is not None or self.effect is not None

    def rank_of(self, energies: Tensor, noise: float = 0.0) -> int:
        """Of one component; energies [k]: of its directions, in the order of their keeping.

        noise: as in share_rank.
        """
        if self.rank is not None:
            return min(self.rank, len(energies))
        if self.energy is not None:
            return share_rank(energies, self.energy, noise)
        return len(energies)

    def ranks_of(
        self,
        energies: Sequence[Tensor],
        costs: Sequence[int],
        overhead: int,
        firsts: Sequence[int] | None = None,
    ) -> list[int]:
        """Of all components. costs: bytes a unit of rank; overhead: bytes of an empty file; firsts:
        of a component's names, where components may be missing."""
        if self.effect is not None:
            return ranks_for_share(energies, costs, self.effect)
        if self.megabytes is None:
            return [self.rank_of(found) for found in energies]
        budget = self.megabytes * 1e6 - overhead
        if self.how == "effect":
            return self._by_effect(energies, costs, budget, firsts)
        if sum(costs) > budget:
            least = math.ceil((sum(costs) + overhead) / 1e3) / 1e3
            raise LoRA2Error(
                f"{self.megabytes:g} MB does not hold one rank of every component; give at least "
                f"{least:.3f}"
            )
        if self.how == "prefix":  # of which nothing but the order is known
            return even_ranks([len(found) for found in energies], costs, budget)
        return budget_ranks([found.sqrt() for found in energies], costs, budget)

    def _by_effect(
        self,
        effects: Sequence[Tensor],
        costs: Sequence[int],
        budget: float,
        firsts: Sequence[int] | None,
    ) -> list[int]:
        ranks = ranks_for_budget(effects, costs, budget, firsts)
        if not any(ranks):
            least = min(map(sum, zip(costs, firsts or [0] * len(costs), strict=True)))
            needed = math.ceil((self.megabytes * 1e6 + least - budget) / 1e3) / 1e3
            raise LoRA2Error(
                f"{self.megabytes:g} MB does not hold a single direction; give at least "
                f"{needed:.3f}"
            )
        return ranks


def share_rank(energies: Tensor, share: float, noise: float = 0.0) -> int:
    """The smallest k ≥ 1 of which the directions hold that share of the energy, but for rounding.

    energies: [k], fp64, in the order of their keeping. What is left out may have the norm
    √((1 − share)·Σ) and a tolerance: 4ε√Σ, or the noise where that is more (low_rank.rounding),
    with ε = 2⁻²³, since singular values are found in fp32. Relative to the sum that is at most
    8ε√r ≈ 10⁻⁶√r for r rows that do not cancel, and √(1 − share) of it for a high share.
    """
    tails = energies.flip(0).cumsum(0).flip(0)
    whole = max(float(tails[0]), 0.0)
    left = torch.cat([tails[1:], tails.new_zeros(1)])
    allowed = math.sqrt((1 - share) * whole) + max(noise, _ROUNDING * math.sqrt(whole))
    return int((left <= allowed**2).int().argmax()) + 1
