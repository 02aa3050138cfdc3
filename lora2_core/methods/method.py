"""What the training loop asks of a method; everything that differs between methods is behind it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..layers.adapter import Adapter
from ..optimizers.rows import RowOptimizer

Factors = tuple[Tensor, Tensor]  # down [rank, n…] and up [m, rank…], fp32 on the CPU


class Method:
    """Fixed ranks, no term in the loss: what a method does not override stays plain LoRA's.

    ranks: what each adapter is to start from, in their order; None: r_init for all. overhead: bytes
    of the finished file beside its rows; row_overhead: of a row beside its numbers. rho: the
    learned ρ of all adapters [L], or None. uses_entropy: whether the loss has the cross-attention
    term. gathers_effect: whether the rows that it trains are those of its file, so that their
    effect can be gathered while they are; cuts_by_effect: whether the finished file is cut by it.
    starts_by_gradient: whether config.start has a say.
    """

    uses_entropy = False
    gathers_effect = True
    cuts_by_effect = False
    starts_by_gradient = False

    def __init__(
        self,
        config: TrainConfig,
        adapters: list[Adapter],
        ranks: Sequence[int] | None = None,
        overhead: int = 0,
        row_overhead: int = 0,
    ):
        self.config = config
        self.adapters = adapters
        self.overhead = overhead
        given = [config.r_init] * len(adapters) if ranks is None else ranks
        self.starts = [
            min(rank, adapter.max_rank) for rank, adapter in zip(given, adapters, strict=True)
        ]
        self._first = list(self.starts)
        self.rho: nn.Parameter | None = None

    @staticmethod
    def highest_rank(config: TrainConfig) -> int:
        """The largest rank that a run may ask of every layer."""
        return config.r_init

    def first_ranks(self) -> list[int]:
        """The rank that every adapter has after `start`."""
        return list(self._first)

    def start(self, generator: torch.Generator) -> None:
        """Gives every adapter its first rows, with B = 0."""
        for adapter, rank in zip(self.adapters, self.first_ranks(), strict=True):
            self._begin(adapter, self._first_rows(adapter, rank, generator))

    def start_along(
        self,
        ranks: Sequence[int],
        directions: Sequence[Tensor],
        generator: torch.Generator,
    ) -> None:
        """`start`, but from these ranks, and with A's first rows in these directions, as long as
        they would be otherwise.

        directions: of each adapter, orthonormal [k, n]; rows beyond k are as in `start`.
        """
        self._first = list(ranks)
        for adapter, rank, found in zip(self.adapters, self.first_ranks(), directions, strict=True):
            rows = self._first_rows(adapter, rank, generator)
            count = min(rank, len(found))
            length = rows.square().sum(1).mean().sqrt()
            rows[:count] = length * found[:count].to(rows)
            self._begin(adapter, rows)

    def _first_rows(self, adapter: Adapter, rank: int, generator: torch.Generator) -> Tensor:
        """A ~ U(±1/√n) [rank, n], as in peft and kohya."""
        return uniform_rows(adapter, rank, generator)

    @staticmethod
    def _begin(adapter: Adapter, a: Tensor) -> None:
        adapter.begin(a, torch.zeros(len(a), adapter.out_features))

    def set_scales(self, step: int) -> None:
        """Sets Λ of every adapter; before each forward pass of step `step` (0-based)."""

    def penalty(self, step: int) -> Tensor | None:
        """The rank term of the loss at step `step`."""
        return None

    def before_step(self) -> None:
        """Before the optimiser moves anything."""

    def after_step(
        self, optimizer: RowOptimizer, generator: torch.Generator, step: int, loss: float
    ) -> None:
        """After the optimiser's step `step`; `loss` is that step's prediction loss."""

    def ranks(self) -> list[int]:
        """The present rank of every adapter."""
        return [adapter.rank for adapter in self.adapters]

    def nus(self) -> list[float | None]:
        """The present ν of every adapter, where there is such a thing."""
        return [None] * len(self.adapters)

    def state(self) -> dict:
        """What it remembers from step to step beside ρ, JSON-ready."""
        return {}

    def restore(self, state: dict) -> None:
        """Takes up what `state` gave."""

    def factors(self) -> list[Factors]:
        """What a file of the present state holds."""
        return [adapter.folded() for adapter in self.adapters]

    def factors_of(self, rows: Sequence[tuple[Tensor, Tensor]]) -> list[Factors]:
        """What a file holds if these were the rows: Λ A [rank, n] and B [rank, m] an adapter."""
        return [
            as_layer(adapter, a, b.t()) for adapter, (a, b) in zip(self.adapters, rows, strict=True)
        ]


def as_layer(adapter: Adapter, down: Tensor, up: Tensor) -> Factors:
    """Factors in the layer's own shape, fp32 on the CPU."""
    down, up = down.float().cpu(), up.float().cpu().contiguous()
    kernel = (1 for _ in adapter.in_shape[1:])
    return down.view(-1, *adapter.in_shape), up.view(*up.shape, *kernel)


def uniform_rows(adapter: Adapter, count: int, generator: torch.Generator) -> Tensor:
    """[count, n] from U(±1/√n)."""
    bound = adapter.in_features**-0.5
    return torch.rand(count, adapter.in_features, generator=generator) * (2 * bound) - bound
