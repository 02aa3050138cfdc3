"""Gathers, while a network trains, what measure.Moments of every adapter are.

Both products are formed in the backward pass, where the hidden activation is at hand in any case
and its gradient has just been computed: nothing is run twice, nothing is kept for it, and blocks
whose activations are recomputed are counted once.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ..layers.adapter import Adapter
from .measure import Moments, whole


class Sums:
    """Of one adapter: weighted sums of p pᵀ, over the tokens, and of the mean of h hᵀ over them,
    [size, size] each, in fp32, of which the first `rank` rows are counted.

    scale: of the loss that is differentiated; p is divided by it.
    """

    def __init__(self, device: torch.device, size: int = 0):
        self.p = torch.zeros(size, size, device=device)
        self.q = torch.zeros(size, size, device=device)
        self.rank = size
        self.scale = 1.0

    def fit(self, rank: int) -> None:
        """From now on of `rank` rows; those that were there before keep what they have."""
        self.rank = rank
        if rank > len(self.p):
            for name in ("p", "q"):
                old = getattr(self, name)
                new = old.new_zeros(rank, rank)
                new[: len(old), : len(old)] = old
                setattr(self, name, new)

    def add(self, hidden: Tensor, gradient: Tensor, axis: int) -> None:
        """One backward pass; hidden, gradient: the rows on `axis`, those beyond the adapter's rank
        left out. What is not finite adds nothing: a loss scaler that is too large makes such a
        step, and it is not taken.
        """
        rank = self.rank
        h, p = (_tokens(found, axis, rank) for found in (hidden, gradient))
        self.q[:rank, :rank].addmm_(h.t(), h, alpha=1 / len(h))
        self.p[:rank, :rank].addmm_(p.t(), p, alpha=1 / self.scale**2)


class _Tap(torch.autograd.Function):
    """The identity, which adds to Sums on its way back."""

    @staticmethod
    def forward(ctx, hidden: Tensor, axis: int, sums: Sums) -> Tensor:
        ctx.axis, ctx.sums = axis, sums
        ctx.save_for_backward(hidden)
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        ctx.sums.add(*ctx.saved_tensors, gradient, ctx.axis)
        return gradient, None, None


class MomentAverage:
    """Of all adapters of a run, with newer steps weighing more.

    every: steps from one that counts to the next. memory: steps that count, after which a step's
    weight has fallen to 1/e.
    """

    def __init__(self, adapters: Sequence[Adapter], every: int, memory: float):
        self._adapters = adapters
        self._every = every
        self._keep = 1 - 1 / max(memory, 1.0)
        self._sums = [Sums(adapter.device) for adapter in adapters]
        self.steps = 0  # that were counted

    @contextmanager
    def gathering(self, step: int, scale: float = 1.0) -> Iterator[None]:
        """Counts the backward passes within the block, if step `step` (0-based) is one that counts.

        scale: of the loss (a loss scaler's).
        """
        if step % self._every:
            yield
            return
        for adapter, sums in zip(self._adapters, self._sums, strict=True):
            sums.fit(adapter.rank)
            sums.scale = scale
            adapter.tap = lambda hidden, axis, sums=sums: _Tap.apply(hidden, axis, sums)
        together = [part for sums in self._sums for part in (sums.p, sums.q)]
        torch._foreach_mul_(together, self._keep)
        self.steps += 1
        try:
            yield
        finally:
            for adapter in self._adapters:
                adapter.tap = None

    def moments(self) -> list[Moments]:
        """Of the rows that each adapter has now."""
        for adapter, sums in zip(self._adapters, self._sums, strict=True):
            sums.fit(adapter.rank)
        return [
            Moments(one.p[: one.rank, : one.rank], one.q[: one.rank, : one.rank])
            for one in self._sums
        ]

    def shares(self) -> list[float]:
        """What each component has of the whole effect; one copy from the device. All 0 if there is
        none."""
        found = torch.stack([whole(one) for one in self.moments()]).double()
        total = found.sum()
        return torch.where(total > 0, found / total, 0).tolist()

    def tensors(self) -> dict[str, Tensor]:
        """What `restore` takes, with `steps`."""
        return {
            f"{index}.{name}": getattr(sums, name)
            for index, sums in enumerate(self._sums)
            for name in ("p", "q")
        }

    def restore(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Takes up what `tensors` and `steps` gave."""
        self.steps = steps
        for index, (adapter, sums) in enumerate(zip(self._adapters, self._sums, strict=True)):
            for name in ("p", "q"):
                setattr(sums, name, tensors[f"{index}.{name}"].to(adapter.device, copy=True))
            sums.fit(adapter.rank)


def _tokens(found: Tensor, axis: int, rank: int) -> Tensor:
    """[tokens, rank], fp32."""
    rows = found.detach().movedim(axis, -1).flatten(0, -2)[:, :rank]
    return rows.float().nan_to_num(0.0, 0.0, 0.0)
