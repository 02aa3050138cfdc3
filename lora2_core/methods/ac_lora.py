"""AC-LoRA: ranks cut by the share of signal, again and again (arXiv 2504.02231).

Every component keeps the rows it starts with. At each RESTART the mean loss since the last one says
what share p of its energy is signal; the rest is replaced by noise, and training goes on.
"""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from ..config import TrainConfig
from ..layers.adapter import Adapter
from ..layers.low_rank import energy_rank, product_svd, truncate
from ..optimizers.rows import RowOptimizer
from .method import Factors, Method, as_layer, uniform_rows

_LEAST_SHARE = 0.5  # below it a restart would throw away most of what was learned
_log = logging.getLogger(__name__)


def signal_share(loss: float, step: int, steps: int) -> float:
    """p = 1 − L^{s/(T−1)+1} after step s (0-based) of T, with steps in place of epochs.

    L is held within 0..1 and p at no less than 0.5, with a warning: at L = 1 p would be 0, and
    everything learned so far noise.
    """
    progress = step / max(1, steps - 1)
    share = 1 - min(max(loss, 0.0), 1.0) ** (progress + 1)
    if loss > 1 or share < _LEAST_SHARE:
        _log.warning(
            "AC-LoRA: mean loss %.3g at step %d gives a signal share of %.3g; %.3g is used",
            loss, step + 1, share, max(share, _LEAST_SHARE),
        )  # fmt: skip
    return max(share, _LEAST_SHARE)


def paper_rank(sigma: Tensor, share: float) -> int:
    """The largest i with Σ_{≤i} σ² < p·Σσ², and at least 1; sigma: [k], falling."""
    energy = sigma.double().square().cumsum(0)
    return max(1, int((energy < share * energy[-1]).sum()))


def with_noise(factor: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """The rank-`rank` part of a factor plus N(0, s²) all over, s the std of what was cut.

    factor: [r, k]. Keeps the expected squared norm.
    """
    u, sigma, vt = torch.linalg.svd(factor, full_matrices=False)
    kept = (u[:, :rank] * sigma[:rank]) @ vt[:rank]
    residual = sigma[rank:].square().sum().div(factor.numel()).sqrt()
    return kept + residual * torch.randn(factor.shape, generator=generator).to(factor)


class ACLoRA(Method):
    """ΔW = B A at the rows it starts with, of which the first `I` directions are signal."""

    gathers_effect = False

    def __init__(
        self,
        config: TrainConfig,
        adapters: list[Adapter],
        ranks: Sequence[int] | None = None,
        overhead: int = 0,
        row_overhead: int = 0,
    ):
        super().__init__(config, adapters, ranks, overhead, row_overhead)
        self._losses: list[float] = []
        self._signal = list(self.starts)
        self._period = max(1, round(config.ac_period * config.steps))

    def ranks(self) -> list[int]:
        return list(self._signal)

    def after_step(
        self, optimizer: RowOptimizer, generator: torch.Generator, step: int, loss: float
    ) -> None:
        """Counts the loss; RESTART when its time has come, but not within the last period."""
        self._losses.append(loss)
        done = step + 1
        if done == self.config.steps:
            self._measure(step)
        elif done % self._period == 0 and done <= self.config.steps - self._period:
            self._restart(optimizer, generator, step)

    def state(self) -> dict:
        return {"losses": list(self._losses), "signal": list(self._signal)}

    def restore(self, state: dict) -> None:
        self._losses, self._signal = list(state["losses"]), list(state["signal"])

    def factors(self) -> list[Factors]:
        """The product without noise, cut to the signal."""
        with torch.no_grad():
            return [
                as_layer(adapter, *_cut(adapter, rank))
                for adapter, rank in zip(self.adapters, self._signal, strict=True)
            ]

    def factors_of(self, rows: Sequence[tuple[Tensor, Tensor]]) -> list[Factors]:
        """Their product, cut to the signal that was found in the run's own."""
        found = []
        for adapter, (a, b), rank in zip(self.adapters, rows, self._signal, strict=True):
            up, down = truncate(b.t(), a, rank)
            found.append(as_layer(adapter, down, up))
        return found

    def _measure(self, step: int) -> None:
        """Finds the rank of the signal in every component that has learned anything."""
        share = signal_share(sum(self._losses) / len(self._losses), step, self.config.steps)
        self._losses = []
        for index, adapter in enumerate(self.adapters):
            if not adapter.b.active.any():
                continue
            if self.config.ac_mode == "product":
                _, sigma, _ = _product(adapter)
                self._signal[index] = energy_rank(sigma, share)
            else:
                factors = (adapter.a.active, adapter.b.active)
                self._signal[index] = max(
                    paper_rank(torch.linalg.svdvals(factor.detach()), share) for factor in factors
                )

    @torch.no_grad()
    def _restart(self, optimizer: RowOptimizer, generator: torch.Generator, step: int) -> None:
        """Replaces what is not signal; a component whose B is still zero is left alone."""
        self._measure(step)
        learned = [i for i, adapter in enumerate(self.adapters) if adapter.b.active.any()]
        for index in learned:
            adapter, rank = self.adapters[index], self._signal[index]
            a, b = adapter.a.active, adapter.b.active
            if self.config.ac_mode == "paper":
                a.copy_(with_noise(a, rank, generator))
                b.copy_(with_noise(b, rank, generator))
            else:
                down, up = _cut(adapter, rank)
                # random rows of A beside zero columns of B leave ΔW as it is
                a.copy_(uniform_rows(adapter, adapter.rank, generator))
                b.zero_()
                a[:rank], b[:rank] = down, up.t()
        optimizer.forget_moments(learned)


def _product(adapter: Adapter) -> tuple[Tensor, Tensor, Tensor]:
    return product_svd(adapter.b.active.detach().t(), adapter.a.active.detach())


def _cut(adapter: Adapter, rank: int) -> Factors:
    """(√Σ Vᵀ [rank, n], U√Σ [m, rank]) of the rank-`rank` part of BA."""
    up, down = truncate(adapter.b.active.detach().t(), adapter.a.active.detach(), rank)
    return down, up
