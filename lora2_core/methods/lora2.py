"""LoRA²: every component learns ν, and ν decides its rank (arXiv 2603.21884, section 3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..config import BYTES, MAX_RANK, TrainConfig
from ..layers.adapter import Adapter
from ..layers.importance import (
    importances,
    nu_for_rank,
    nu_of,
    quantile_rank,
    rho_of,
    sum_of_squares,
)
from ..optimizers.rows import RowOptimizer
from .budget import Budget, check_budget, even_rank
from .method import Factors, Method
from .rank_terms import rank_penalty, row_penalty

_HEADROOM = 4  # highest rank over the mean, with a budget


class AdaptiveRank(Method):
    """ΔW = B Λ A with Λ = diag f(x; ν); ν = softplus(ρ), one ρ a component in one tensor.

    Λ is f as printed, or with config.importance "unit_energy" f of norm 1 (importances). With
    config.holds_budget a limit on the file takes the place of the rank term (budget.Budget), all
    start from the rank that it pays for, and may reach _HEADROOM times that.

    rho: [L], fp32.
    """

    uses_entropy = True
    cuts_by_effect = True
    starts_by_gradient = True

    def __init__(
        self,
        config: TrainConfig,
        adapters: list[Adapter],
        ranks: Sequence[int] | None = None,
        overhead: int = 0,
        row_overhead: int = 0,
    ):
        super().__init__(config, adapters, ranks, overhead, row_overhead)
        device = adapters[0].device
        q, r_max = config.quantile, config.r_max
        costs = [
            BYTES[config.budget_precision] * (adapter.in_features + adapter.out_features)
            + row_overhead
            for adapter in adapters
        ]
        limit = 0.0
        if config.holds_budget:
            limit = check_budget(config.budget_mb, costs, overhead)
            even = min(even_rank(limit, costs), MAX_RANK)
            r_max = min(max(r_max, _HEADROOM * even), MAX_RANK)
            if ranks is None:
                self.starts = [min(even, adapter.max_rank) for adapter in adapters]
        # a start that was asked for layer by layer may lie above r_max
        highest = [max(r_max, start) for start in self.starts]
        caps = [min(h, adapter.max_rank) for h, adapter in zip(highest, adapters, strict=True)]
        rho = self._rho_for(self.starts)
        self._budget = Budget(limit, costs, caps, q, config.r_target) if limit else None
        if self._budget is not None:
            rho = self._budget.held(rho)
        self.rho = nn.Parameter(rho.to(device))
        # ν_target is what softplus makes of ρ_target, so that a ν stopped there is at distance 0
        # to the bit; one ulp off, and it would count as crossing with every step to that side
        self._rho_target = rho_of(torch.full_like(self.rho, nu_for_rank(config.r_target, q)))
        self.nu_target = nu_of(self._rho_target)
        self._rho_low = rho_of(torch.tensor([nu_for_rank(cap, q) for cap in caps], device=device))
        self._caps = torch.tensor(caps, device=device)
        self._rho_before: Tensor | None = None
        self._unit_energy = config.importance == "unit_energy"

    @staticmethod
    def highest_rank(config: TrainConfig) -> int:
        return config.r_max

    def first_ranks(self) -> list[int]:
        """What a budget makes of the ranks that were asked for."""
        return self._read_ranks()[0]

    def start_along(
        self, ranks: Sequence[int], directions: Sequence[Tensor], generator: torch.Generator
    ) -> None:
        """ν goes with the ranks."""
        rho = self._rho_for(ranks)
        if self._budget is not None:
            rho = self._budget.held(rho)
        with torch.no_grad():
            self.rho.copy_(rho)
        super().start_along(ranks, directions, generator)

    def set_scales(self, step: int) -> None:
        """Λ of every component from the present ν, with gradient while the ranks may move."""
        rho = self.rho if self._moving(step) else self.rho.detach()
        scales = importances(nu_of(rho), self.ranks(), self._unit_energy)
        for adapter, scale in zip(self.adapters, scales, strict=True):
            adapter.scale = scale

    def penalty(self, step: int) -> Tensor | None:
        """The price of rows, or λ_r Σ|ν − ν_target| [eq. 12]; none where a budget is held."""
        if not self._moving(step) or self._budget is not None:
            return None
        config = self.config
        nu, target, reduction = nu_of(self.rho), self.nu_target, config.regulariser
        if config.rank_term == "nu":
            return config.lambda_r * rank_penalty(nu, target, reduction)
        return config.lambda_r * row_penalty(nu, target, reduction, config.quantile)

    def before_step(self) -> None:
        """Remembers where ρ stood, so that after_step can tell which crossed the target."""
        self._rho_before = self.rho.detach().clone()

    def after_step(
        self, optimizer: RowOptimizer, generator: torch.Generator, step: int, loss: float
    ) -> None:
        """Brings ranks and memory up to the new ν: one device-to-host copy for all components."""
        if self._moving(step):
            self._settle(optimizer)
        ranks, nus = self._read_ranks()
        patience = self.config.shrink_patience
        changed = [i for i, adapter in enumerate(self.adapters) if adapter.rank != ranks[i]]
        idle = [i for i, adapter in enumerate(self.adapters) if adapter.idle_steps >= patience]
        touched = sorted({*changed, *idle})
        optimizer.before_change(touched)
        for i in changed:
            adapter, rank = self.adapters[i], ranks[i]
            rows = ()
            if rank > adapter.filled:
                rows = self._new_rows(adapter, rank, nus[i], generator)
            adapter.set_rank(rank, *rows)
        for adapter in self.adapters:
            adapter.give_back(patience)
        optimizer.follow(touched)

    def nus(self) -> list[float]:
        """The present ν of every component."""
        return nu_of(self.rho.detach()).tolist()

    def factors(self) -> list[Factors]:
        """Λ of the present ν folded in."""
        with torch.no_grad():
            self.set_scales(self.config.steps)
            return super().factors()

    def _moving(self, step: int) -> bool:
        """Whether ν takes part in step `step`: not while held, not while frozen."""
        config = self.config
        held = step < round(config.rank_hold * config.steps)
        frozen = step >= config.steps - round(config.rank_freeze * config.steps)
        return not (held or frozen)

    def _settle(self, optimizer: RowOptimizer) -> None:
        """Holds the budget; else keeps ν within r_max, and stops it on ν_target where a step would
        cross it.

        The last is the proximal step of |ν − ν_target|: Adam's sign-like steps would otherwise
        swing around the target for ever, and the rank would flap with them.
        """
        if self._budget is not None:
            with torch.no_grad():
                self.rho.copy_(self._budget.held(self.rho.cpu()))
            return
        with torch.no_grad():
            side = torch.sign(self._rho_before - self._rho_target)
            crossed = side * torch.sign(self.rho - self._rho_target) < 0
            self.rho.copy_(torch.where(crossed, self._rho_target, self.rho))
            low = self.rho < self._rho_low
            self.rho.copy_(torch.maximum(self.rho, self._rho_low))
        optimizer.stop_momentum(crossed | low)

    def _read_ranks(self) -> tuple[list[int], list[float]]:
        nu = nu_of(self.rho.detach())
        ranks = quantile_rank(nu, 1, self._caps, self.config.quantile)
        count = len(self.adapters)
        # fp32 holds every rank exactly, so that one copy carries both
        both = torch.cat([ranks.float(), nu]).tolist()
        return [int(rank) for rank in both[:count]], both[count:]

    def _rho_for(self, ranks: Sequence[int]) -> Tensor:
        return rho_of(torch.tensor([nu_for_rank(r, self.config.quantile) for r in ranks]))

    def _first_rows(self, adapter: Adapter, rank: int, generator: torch.Generator) -> Tensor:
        nu = nu_for_rank(rank, self.config.quantile)
        return self._drawn(adapter, rank, nu, generator, rank)[0]

    def _new_rows(
        self, adapter: Adapter, rank: int, nu: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Rows filled..rank, with B as config.growth has it."""
        a, std = self._drawn(adapter, rank, nu, generator, rank - adapter.filled)
        if self.config.growth == "zero":
            return a, torch.zeros(len(a), adapter.out_features)
        return a, std * torch.randn(len(a), adapter.out_features, generator=generator)

    def _drawn(
        self, adapter: Adapter, rank: int, nu: float, generator: torch.Generator, count: int
    ) -> tuple[Tensor, float]:
        """`count` rows A ~ N(0, 2/Σ_{j<rank} f²) [section 3.3.1], and their standard deviation."""
        std = (2.0 / sum_of_squares(nu, rank, self._unit_energy)) ** 0.5
        if self.config.init == "fan_in":
            std /= adapter.in_features**0.5
        return std * torch.randn(count, adapter.in_features, generator=generator), std
