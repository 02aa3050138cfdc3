"""Λ A and B of all adapters in half precision, for one forward and backward pass.

Layer by layer, each of them takes a multiplication and two casts, once more in a recomputation, and
as many again in the backward pass. On a GPU these are thousands of kernels of a few microseconds;
here the rows of all layers of one width go through each of them together.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

import torch
from torch import Tensor

from .adapter import Adapter

_ALIGNED = 8  # rows: 16 bytes, below which a GPU's fast matrix kernels are out of reach


@contextmanager
def half_factors(adapters: Sequence[Adapter], dtype: torch.dtype) -> Iterator[None]:
    """Within the block, adapters multiply by copies of their rows in `dtype`, made at its start.

    Each copy has zeros for rows up to the next multiple of eight, which add nothing to ΔW.
    Gradients reach A, B and Λ as if each had been cast by itself. With fp32 nothing is touched.
    """
    if dtype == torch.float32:
        yield
        return
    downs = _in_half([adapter.a.active for adapter in adapters], _scales(adapters), dtype)
    ups = _in_half([adapter.b.active for adapter in adapters], None, dtype)
    try:
        for adapter, *both in zip(adapters, downs, ups, strict=True):
            adapter.half = tuple(both)
        yield
    finally:
        for adapter in adapters:
            adapter.half = None


def _scales(adapters: Sequence[Adapter]) -> list[Tensor] | None:
    scales = [adapter.scale for adapter in adapters if adapter.scale is not None]
    return scales or None  # a method has Λ everywhere or nowhere


def _in_half(
    rows: Sequence[Tensor], scales: Sequence[Tensor] | None, dtype: torch.dtype
) -> list[Tensor]:
    """scales[i][:, None] · rows[i] in `dtype`, [r_i and zeros, n_i].

    rows[i]: [r_i, n_i], scales[i]: [r_i], fp32.
    """
    found: dict[int, Tensor] = {}

    def width(index: int) -> int:
        return rows[index].shape[1]

    for _, group in groupby(sorted(range(len(rows)), key=width), key=width):
        members = list(group)
        parts = [rows[i] for i in members]
        if scales is not None:
            parts += [scales[i] for i in members]
        halves = _InHalf.apply(dtype, len(members), *parts)
        found |= zip(members, halves, strict=True)
    return [found[i] for i in range(len(rows))]


class _InHalf(torch.autograd.Function):
    """_in_half for rows of one width. Nothing is kept but what is there in any case."""

    @staticmethod
    def forward(ctx, dtype: torch.dtype, count: int, *parts: Tensor) -> tuple[Tensor, ...]:
        ctx.count = count
        ctx.save_for_backward(*parts)
        ctx.set_materialize_grads(False)  # a layer that took no part has no gradient
        rows, scales = parts[:count], parts[count:]
        together = torch.cat(_padded(rows))
        if scales:
            together.mul_(torch.cat(_padded(scales))[:, None])
        return together.to(dtype).split([len(part) + _missing(part) for part in rows])

    @staticmethod
    def backward(ctx, *grads: Tensor | None):
        count = ctx.count
        rows, scales = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        members = [i for i in range(count) if grads[i] is not None]
        found: list[Tensor | None] = [None] * (count + len(scales))
        if members:
            lengths = [len(rows[i]) for i in members]
            together = torch.cat([grads[i][: len(rows[i])] for i in members]).float()
            if scales:
                if ctx.needs_input_grad[2 + count]:
                    product = torch.cat([rows[i] for i in members]).mul_(together)
                    for i, grad in zip(members, product.sum(1).split(lengths), strict=True):
                        found[count + i] = grad
                together.mul_(torch.cat([scales[i] for i in members])[:, None])
            for i, grad in zip(members, together.split(lengths), strict=True):
                found[i] = grad
        return None, None, *found


def _missing(rows: Tensor) -> int:
    return -len(rows) % _ALIGNED


def _padded(parts: Sequence[Tensor]) -> list[Tensor]:
    """With zeros behind each that is not a multiple of _ALIGNED long."""
    blank = parts[0].new_zeros(_ALIGNED - 1, *parts[0].shape[1:])
    return [piece for part in parts for piece in (part, blank[: _missing(part)])]
