"""A number of bytes that the ranks of all components share [ours].

The rank term λ_r Σ|ν − ν_target| [LoRA², eq. 12] is the penalty form of a limit on the file; here
the limit itself is held. Gradients move every ν as before; then one common factor on all ν brings
the file back to its size. It is the pressure that λ_r stands for, found anew after each step, and
leaves how the bytes are shared between components to what was learned.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import LoRA2Error
from ..layers.importance import log_mass, nu_for_rank, nu_of, quantile_rank, rho_of

LEAST = 0.95  # of the budget; between this and all of it nothing is done, or ranks would flap
_AIM = 0.98  # where a size outside of that is brought back to
_HALVINGS = 40
_ASIDE = 1.0001  # from the edge between two ranks, where float noise would decide


class Budget:
    """At most `limit` bytes for all rows.

    costs: bytes of one row of each component [L]. caps: the highest rank of each [L]. r_target:
    no ν passes the value of this rank; from far beyond it a component could not come back.
    """

    def __init__(
        self, limit: float, costs: Sequence[int], caps: Sequence[int], quantile: float,
        r_target: float,
    ):  # fmt: skip
        self._limit = limit
        self._costs = torch.tensor(costs, dtype=torch.float64)
        self._caps = torch.tensor(caps)
        self._low = log_mass(quantile) / self._caps
        self._high = self._low.clamp(min=nu_for_rank(r_target, quantile))
        self._quantile = quantile

    def size(self, rho: Tensor) -> float:
        """Bytes of all rows; rho: [L], fp32, on the CPU."""
        ranks = quantile_rank(nu_of(rho), 1, self._caps, self._quantile)
        return float((ranks.double() * self._costs).sum())

    def held(self, rho: Tensor) -> Tensor:
        """ρ of ν times the factor nearest to 1 that fits the budget, each ν within its bounds.

        The factor is 1 for a size between LEAST and all of the budget. rho: [L], fp32, on the CPU.
        Where the highest ranks do not spend the budget, every component ends at its own.
        """
        nu = nu_of(rho)
        found = self._times(nu, 1.0)
        if LEAST * self._limit <= self.size(found) <= self._limit:
            return found
        low, high = float((self._low / nu).min()), float((self._high / nu).max())
        for _ in range(_HALVINGS):  # the size does not grow with the factor
            middle = (low * high) ** 0.5
            if self.size(self._times(nu, middle)) <= _AIM * self._limit:
                high = middle
            else:
                low = middle
        return self._times(nu, high * _ASIDE)

    def _times(self, nu: Tensor, factor: float) -> Tensor:
        return rho_of(torch.minimum(torch.maximum(nu * factor, self._low), self._high))


def even_rank(limit: float, costs: Sequence[int]) -> int:
    """The highest rank that all components can have alike; 0 if not even 1 fits."""
    return int(limit // sum(costs))


def check_budget(budget_mb: float, costs: Sequence[int], overhead: int) -> float:
    """Bytes that are left for rows; raises LoRA2Error, naming the least, if they do not do for
    rank 1 everywhere.

    costs: bytes of one row of each component. overhead: of the file without rows.
    """
    limit = budget_mb * 1e6 - overhead
    if even_rank(limit, costs) < 1:
        least = (sum(costs) + overhead) / 1e6
        raise LoRA2Error(
            f"budget_mb is {budget_mb:g}, but rank 1 in each of {len(costs)} layers takes "
            f"{least + 0.005:.2f} MB; give at least that, or adapt fewer layers"
        )
    return limit
