"""A moving average of an adapter whose ranks grow and shrink.

What is averaged are the effective rows: A with Λ folded in, and B. Averaged apart, as everywhere,
for a dense average of ΔW would be as large as the model: the product of two averages is the
average of the products as long as one side moves little within the average's memory.

A row that is dormant, or not yet there, adds nothing to ΔW. In the average it counts so on one
side alone: its effective row of A is 0 in those steps, and pulls the average of A there; the
average of B is over the steps in which the row was active. Were it 0 on both sides, a row that was
active for a share s of the time would count s² instead of s. So a row that comes is faded in, one
that goes is faded out, and one that comes back goes on from where it had faded to.

The rank of the average is the rank of now: ν is the present decision about how many rows are
kept, and the file has the ranks that the run shows. Rows beyond it are left out, also while they
still fade.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..layers.adapter import Adapter
from ..optimizers.rows import RowOptimizer


@dataclass
class _Sums:
    """Weighted sums over the steps of one adapter, newer steps weighing more.

    a: Σ w ΛA [capacity, n]. b: Σ w B over the active steps [capacity, m]. active: Σ w over the
    active steps [capacity]. total: Σ w over all.
    """

    a: Tensor
    b: Tensor
    active: Tensor
    total: float = 0.0


class AdapterAverage:
    """Of the effective rows of all adapters, with weights that add up to 1 from the first step on.

    decay: what a step's weight falls by with each later step; less in the beginning, where
    (1 + t)/(10 + t) after t updates is smaller (as in diffusers' EMAModel), so that a short run
    does not save what it began with.
    """

    def __init__(self, adapters: list[Adapter], decay: float):
        self._adapters = adapters
        self._decay = decay
        self._updates = 0
        self._sums = [_empty(adapter, 0) for adapter in adapters]

    @torch.no_grad()
    def update(self, optimizer: RowOptimizer) -> None:
        """Takes up the adapters as they are, Λ included.

        Rows that the optimiser has not moved yet begin anew. Where this is all of an adapter, its
        average does: then AC-LoRA has exchanged its rows, and the old ones are no zeros.
        """
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        for index, adapter in enumerate(self._adapters):
            if len(self._sums[index].active) != adapter.capacity:
                self._sums[index] = _resized(self._sums[index], adapter)
            sums = self._sums[index]
            for start, stop in optimizer.fresh(index):
                for part in (sums.a, sums.b, sums.active):
                    part[start:stop] = 0
                if stop - start == adapter.rank:
                    sums.total = 0.0
            new, rank = 1 - decay, adapter.rank
            for part in (sums.a, sums.b, sums.active):
                part.mul_(decay)
            sums.total = decay * sums.total + new
            sums.a[:rank].add_(adapter.scaled_a(), alpha=new)
            sums.b[:rank].add_(adapter.b.active, alpha=new)
            sums.active[:rank].add_(new)
        self._updates += 1

    def rows(self) -> list[tuple[Tensor, Tensor]]:
        """(effective A [rank, n], B [rank, m]) of every adapter; after an update."""
        found = []
        for adapter, sums in zip(self._adapters, self._sums, strict=True):
            rank = adapter.rank
            b = sums.b[:rank] / sums.active[:rank, None]
            found.append((sums.a[:rank] / sums.total, b))
        return found

    def tensors(self) -> dict[str, Tensor]:
        """What `restore` takes, with the facts."""
        return {
            f"{index}.{name}": getattr(sums, name)
            for index, sums in enumerate(self._sums)
            for name in ("a", "b", "active")
        }

    def facts(self) -> dict:
        """JSON-ready."""
        return {"updates": self._updates, "totals": [sums.total for sums in self._sums]}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping) -> None:
        """Takes up what `tensors` and `facts` gave."""
        self._updates = facts["updates"]
        for index, (adapter, total) in enumerate(zip(self._adapters, facts["totals"], strict=True)):
            parts = [tensors[f"{index}.{name}"].to(adapter.device) for name in ("a", "b", "active")]
            self._sums[index] = _Sums(*(part.clone() for part in parts), total)


def _empty(adapter: Adapter, capacity: int) -> _Sums:
    device = adapter.device
    return _Sums(
        torch.zeros(capacity, adapter.in_features, device=device),
        torch.zeros(capacity, adapter.out_features, device=device),
        torch.zeros(capacity, device=device),
    )


def _resized(sums: _Sums, adapter: Adapter) -> _Sums:
    """Moved along with the adapter's memory; rows that no longer fit are forgotten as there."""
    moved = _empty(adapter, adapter.capacity)
    kept = min(adapter.capacity, len(sums.active))
    for name in ("a", "b", "active"):
        getattr(moved, name)[:kept] = getattr(sums, name)[:kept]
    moved.total = sums.total
    return moved
