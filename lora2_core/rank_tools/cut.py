"""How much of an adapter is to be kept."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import LoRA2Error
from ..layers.low_rank import budget_ranks, even_ranks

HOW = ("svd", "prefix")


@dataclass(frozen=True)
class Cut:
    """At most one of: rank, a cap for every component; energy, a share of each component's Σσ²;
    megabytes (10⁶ bytes), of the whole file.

    how: `svd` keeps the best directions, `prefix` the first rows, which is LoRA²'s own truncation.
    Raises LoRA2Error, naming the value.
    """

    rank: int | None = None
    energy: float | None = None
    megabytes: float | None = None
    how: str = "svd"

    def __post_init__(self):
        given = [v for v in (self.rank, self.energy, self.megabytes) if v is not None]
        if len(given) > 1:
            raise LoRA2Error("rank, energy and megabytes exclude each other; give one of them")
        if self.rank is not None and self.rank < 1:
            raise LoRA2Error(f"rank is {self.rank}; give at least 1")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise LoRA2Error(f"energy is {self.energy}; give a share above 0 and at most 1")
        if self.megabytes is not None and not self.megabytes > 0:
            raise LoRA2Error(f"megabytes is {self.megabytes}; give a size above 0")
        if self.how not in HOW:
            raise LoRA2Error(f"how is {self.how!r}; choose one of {', '.join(HOW)}")

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is cut."""
        return self.rank is None and self.energy is None and self.megabytes is None

    @property
    def needs_all(self) -> bool:
        """Whether the rank of one component depends on the others."""
        return self.megabytes is not None

    def rank_of(self, energies: Tensor) -> int:
        """Of one component; energies [k]: of its directions, in the order of their keeping."""
        if self.rank is not None:
            return min(self.rank, len(energies))
        if self.energy is not None:
            reached = energies.cumsum(0)
            return int((reached >= self.energy * reached[-1]).int().argmax()) + 1
        return len(energies)

    def ranks_of(
        self, energies: Sequence[Tensor], costs: Sequence[int], overhead: int
    ) -> list[int]:
        """Of all components. costs: bytes a unit of rank; overhead: bytes of an empty file."""
        if self.megabytes is None:
            return [self.rank_of(found) for found in energies]
        budget = self.megabytes * 1e6 - overhead
        if sum(costs) > budget:
            least = math.ceil((sum(costs) + overhead) / 1e3) / 1e3
            raise LoRA2Error(
                f"{self.megabytes:g} MB does not hold one rank of every component; give at least "
                f"{least:.3f}"
            )
        if self.how == "prefix":  # of which nothing but the order is known
            return even_ranks([len(found) for found in energies], costs, budget)
        return budget_ranks([found.sqrt() for found in energies], costs, budget)
