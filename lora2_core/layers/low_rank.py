"""Algebra of low-rank updates, never forming the dense matrix."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import LoRA2Error
from .decompose import decompose, shifted, singular

_PLAIN = 30  # powers of two on either side of 1 that no square and no product carries out of fp32
_FARTHEST = 120  # powers of two that one number of fp32 can stand for


def product_svd(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The singular value decomposition of up @ down, from two QRs and one small SVD.

    up: [m, r], down: [r, n], any float dtype; computed in fp32 at least. Returns U [m, k],
    σ [k] falling, Vᵀ [k, n] with k = min(m, r, n). O((m+n)r² + r³).
    """
    dtype = torch.promote_types(up.dtype, torch.float32)
    q_up, r_up = torch.linalg.qr(up.to(dtype))
    q_down, r_down = torch.linalg.qr(down.to(dtype).t())
    u, sigma, vt = decompose(r_up @ r_down.t())
    return q_up @ u, sigma, vt @ q_down.t()


def singular_values(up: Tensor, down: Tensor) -> Tensor:
    """σ [k], falling, in fp64, of up @ down, whatever its size; up: [m, r], down: [r, n],
    k = min(m, r, n).

    Raises torch.linalg.LinAlgError if they cannot be found.
    """
    up, down, exponent = moderate(up, down)
    r_up, r_down = _triangles(up, down)
    return singular(r_up @ r_down.t()).double() * 2.0**exponent


def rounding(up: Tensor, down: Tensor) -> float:
    """How far arithmetic in fp32 may move the norm of up @ down, or of a part of it.

    8ε Σ‖uᵢ‖‖dᵢ‖ over the columns of up and the rows of down, ε = 2⁻²³: the sizes that are added,
    whatever they cancel to. Fifty thousand small products of all scales came to 5.9ε at most.
    """
    sizes = _lengths(up, 0) * _lengths(down, 1)
    return 8 * torch.finfo(torch.float32).eps * float(sizes.sum())


def moderate(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, int]:
    """(up', down', e) with up @ down = 2ᵉ · up' @ down', e even, and no row larger in one factor
    than in the other; exact, by powers of two.

    What follows is then the same in every bit, but that it neither overflows nor vanishes, and
    that no row counts as rounding because another is written with a large up.
    """
    sizes = _lengths(up, 0), _lengths(down, 1)
    there = (sizes[0] > 0) & (sizes[1] > 0)
    ratio = torch.where(there, sizes[0], 1).log2() - torch.where(there, sizes[1], 1).log2()
    moved = (ratio / 2).round().clamp(-_FARTHEST, _FARTHEST)
    if moved.any():
        powers = torch.exp2(moved).to(down.dtype)
        up, down = up / powers, down * powers[:, None]
    above, beyond = _far(up), _far(down)
    return shifted(up, -above), shifted(down, -beyond), above + beyond


def _lengths(factor: Tensor, dim: int) -> Tensor:
    """Norms in fp64 of the columns (dim 0) or the rows (dim 1)."""
    return torch.linalg.vector_norm(factor, dim=dim, dtype=torch.float64)


def _far(factor: Tensor) -> int:
    """The even power of two next to its largest number; 0 where that is near 1 anyway."""
    largest = torch.linalg.vector_norm(factor, torch.inf)
    exponent = int(torch.frexp(largest).exponent) if 0 < largest < torch.inf else 0
    return 0 if abs(exponent) <= _PLAIN else exponent // 2 * 2


def _triangles(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """R of QR(up) and of QR(downᵀ), in fp32 at least."""
    dtype = torch.promote_types(up.dtype, torch.float32)
    r_up = torch.linalg.qr(up.to(dtype), mode="r").R
    return r_up, torch.linalg.qr(down.to(dtype).t(), mode="r").R


def energy_rank(sigma: Tensor, share: float) -> int:
    """The smallest k ≥ 1 with Σ_{i≤k} σ² ≥ share · Σσ²; sigma: [k], falling."""
    energy = sigma.double().square().cumsum(0)
    return min(int((energy < share * energy[-1]).sum()) + 1, len(sigma))


def budget_ranks(sigmas: Sequence[Tensor], costs: Sequence[float], budget: float) -> list[int]:
    """Ranks of many updates whose costs add up to at most `budget`, for the least error.

    sigmas: singular values of each, falling. costs: of one unit of rank, such as its parameters
    m + n. Every update keeps one rank; then the directions are taken in order of σ²/cost, each
    that still fits. Raises LoRA2Error if the budget does not hold one rank each.
    """
    gains = sorted(
        (-(value**2) / cost, index, place)
        for index, (sigma, cost) in enumerate(zip(sigmas, costs, strict=True))
        for place, value in enumerate(sigma.tolist())
        if place > 0 and value > 0
    )
    return _bought([(index, place) for _, index, place in gains], costs, budget)


def even_ranks(lengths: Sequence[int], costs: Sequence[float], budget: float) -> list[int]:
    """Ranks that cut every update by the same share, of `lengths` rows, to at most `budget`."""
    places = sorted(
        (place / length, index, place)
        for index, length in enumerate(lengths)
        for place in range(1, length)
    )
    return _bought([(index, place) for _, index, place in places], costs, budget)


def _bought(wanted: Sequence[tuple[int, int]], costs: Sequence[float], budget: float) -> list[int]:
    """Ranks after taking what fits of (update, row) pairs in order, upon one row of each update."""
    least = sum(costs)
    if least > budget:
        raise LoRA2Error(
            f"a budget of {budget:g} does not hold one rank a component; give at least {least:g}"
        )
    ranks, spent = [1] * len(costs), least
    for index, place in wanted:
        # a row follows its predecessor, unless that one did not fit
        if ranks[index] == place and spent + costs[index] <= budget:
            ranks[index] += 1
            spent += costs[index]
    return ranks


def mixers(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What turns factors into the best ones of every rank at once, without forming U and V.

    up: [m, r], down: [r, n]. Returns left [r, k], σ [k] falling, right [k, r], k = min(m, r, n):
    up @ left[:, :i] and right[:i] @ down are the balanced factors U√Σ and √ΣVᵀ of rank i. From the
    triangles R of two QRs: with R_up R_downᵀ = UΣVᵀ, left = R_downᵀV/√Σ and right = UᵀR_up/√Σ.
    What is below the rounding of the product counts as 0: divided by √Σ it would be noise. Raises
    torch.linalg.LinAlgError if there is no decomposition.
    """
    r_up, r_down = _triangles(up, down)
    u, sigma, vt = decompose(r_up @ r_down.t())
    noise = 4 * torch.finfo(sigma.dtype).eps * r_up.norm() * r_down.norm()
    sigma = torch.where(sigma > noise, sigma, 0)
    inverse = torch.where(sigma > 0, sigma.rsqrt(), 0)
    return r_down.t() @ vt.t() * inverse, sigma, inverse[:, None] * (u.t() @ r_up)


def truncate(up: Tensor, down: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best factors of that rank for up @ down, balanced: (U√Σ [m, k], √ΣVᵀ [k, n])."""
    left, _, right = mixers(up, down)
    return up.to(left.dtype) @ left[:, :rank], right[:rank] @ down.to(right.dtype)
