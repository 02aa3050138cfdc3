"""LoKr: ΔW = W₁ ⊗ W₂, each a whole matrix or a product of two factors.

It is itself a product of two factors, exactly: (A₁B₁) ⊗ (A₂B₂) = (A₁ ⊗ A₂)(B₁ ⊗ B₂), of rank r₁r₂,
where a whole matrix counts as itself times the unit matrix.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from . import tucker
from .tucker import Shape

NAME = "LoKr"
ROLES = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")


def sized(shapes: Mapping[str, Shape]) -> tuple[int, Shape, int] | None:
    """(rank, shape of ΔW, numbers that the largest step holds), or None if the parts do not fit.

    shapes: role → shape. w1 [a, b] or w1_a [a, r], w1_b [r, b]. w2 [c, d] or [c, d, k, k], or
    w2_a [c, r], w2_b [r, d], or in Tucker form w2_a [r, c], w2_b [s, d] and a core t2 [r, s, k, k].
    """
    first, second = _half(shapes, "lokr_w1", None), _half(shapes, "lokr_w2", shapes.get("lokr_t2"))
    if first is None or second is None or len(first[1]) != 2:
        return None
    (rank1, (a, b)), (rank2, (c, d, *kernel)) = first, second
    inner, width = d, b * d
    for size in kernel:
        inner, width = inner * size, width * size
    middle = shapes["lokr_w2_a"][0 if "lokr_t2" in shapes else 1] if "lokr_w2_a" in shapes else 0
    rank = min(rank1, a, b) * min(rank2, c, inner)
    return rank, (a * c, b * d, *kernel), max(a * c * width, middle * inner)


def dimension(shapes: Mapping[str, Shape]) -> int | None:
    """What alpha is divided by; None if both matrices are whole, and alpha does not count."""
    for role in ("lokr_w2_b", "lokr_w1_b"):
        if role in shapes:
            return shapes[role][0]
    return None


def factors(parts: Mapping[str, Tensor], rank: int) -> tuple[Tensor, Tensor]:
    """(up [m, rank], down [rank, n]) in fp32 of scale 1, n = in·k·k for a convolution."""
    up1, down1 = _matrices(parts, "lokr_w1", None)
    up2, down2 = _matrices(parts, "lokr_w2", parts.get("lokr_t2"))
    return _kronecker(up1, up2), _kronecker(down1, down2)


def _half(shapes: Mapping[str, Shape], role: str, core: Shape | None) -> tuple[int, Shape] | None:
    """(rank, shape) of W₁ or W₂; a whole one goes before factors, as in the host."""
    whole, a, b = shapes.get(role), shapes.get(f"{role}_a"), shapes.get(f"{role}_b")
    if whole is not None:
        fits = len(whole) in (2, 4) and a is None and b is None and core is None
        return (whole[0], whole) if fits else None
    return None if a is None or b is None else tucker.sized(a, b, core)


def _matrices(parts: Mapping[str, Tensor], role: str, core: Tensor | None) -> tuple[Tensor, Tensor]:
    """(up, down) of no higher rank than W₁ or W₂ can have."""
    if role in parts:
        return _whole(parts[role].float().flatten(1))
    up, down = parts[f"{role}_a"].float(), parts[f"{role}_b"].float()
    if core is not None:
        up, down = up.t(), tucker.folded(core, down).flatten(1)
    if up.shape[1] > min(up.shape[0], down.shape[1]):
        return _whole(up @ down)
    return up, down


def _whole(matrix: Tensor) -> tuple[Tensor, Tensor]:
    unit = torch.eye(min(matrix.shape))
    return (matrix, unit) if matrix.shape[0] >= matrix.shape[1] else (unit, matrix)


def _kronecker(one: Tensor, other: Tensor) -> Tensor:
    """torch.kron without its demands on how a matrix lies in memory."""
    blocks = one[:, None, :, None] * other[None, :, None, :]
    return blocks.reshape(one.shape[0] * other.shape[0], one.shape[1] * other.shape[1])
