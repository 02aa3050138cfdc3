"""LoHa: ΔW = (A₁B₁) ∘ (A₂B₂), an elementwise product of two low-rank matrices.

It is itself a product of two factors, exactly: column (i, j) of up is A₁'s column i times A₂'s
column j, and row (i, j) of down is B₁'s row i times B₂'s row j. Its rank is at most r₁r₂.
"""

from collections.abc import Mapping

from torch import Tensor

from . import tucker
from .tucker import Shape

NAME = "LoHa"
ROLES = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
_NEEDED = ROLES[:4]


def sized(shapes: Mapping[str, Shape]) -> tuple[int, Shape, int] | None:
    """(rank, shape of ΔW, numbers that the largest step holds), or None if the parts do not fit.

    shapes: role → shape. Linear: w_a [m, r], w_b [r, n]. In Tucker form w_a [r, m], w_b [s, in] and
    a core t [r, s, k, k].
    """
    if any(role not in shapes for role in _NEEDED) or ("hada_t1" in shapes) != (
        "hada_t2" in shapes
    ):
        return None
    first, second = (_half(shapes, number) for number in (1, 2))
    if first is None or second is None or first[1] != second[1]:
        return None
    shape = first[1]
    width = 1
    for size in shape[1:]:
        width *= size
    rank = min(first[0] * second[0], shape[0], width)
    return rank, shape, max(shape[0], first[0], second[0]) * width


def dimension(shapes: Mapping[str, Shape]) -> int:
    """What alpha is divided by."""
    return shapes["hada_w1_b"][0]


def factors(parts: Mapping[str, Tensor], rank: int) -> tuple[Tensor, Tensor]:
    """(up [m, rank], down [rank, n]) in fp32 of scale 1, n = in·k·k for a convolution.

    rank: of `sized`. Where r₁r₂ is more than a side of ΔW has, one factor is ΔW itself.
    """
    (up1, down1), (up2, down2) = (_matrices(parts, number) for number in (1, 2))
    if rank == up1.shape[1] * up2.shape[1]:
        up = (up1[:, :, None] * up2[:, None, :]).flatten(1)
        return up, (down1[:, None] * down2[None]).flatten(0, 1)
    delta = (up1 @ down1) * (up2 @ down2)
    if rank == delta.shape[1]:
        return delta, delta.new_ones(rank).diag()
    return delta.new_ones(rank).diag(), delta


def _half(shapes: Mapping[str, Shape], number: int) -> tuple[int, Shape] | None:
    """(rank, shape) of one of the two matrices."""
    a, b = shapes[f"hada_w{number}_a"], shapes[f"hada_w{number}_b"]
    return tucker.sized(a, b, shapes.get(f"hada_t{number}"))


def _matrices(parts: Mapping[str, Tensor], number: int) -> tuple[Tensor, Tensor]:
    up, down = parts[f"hada_w{number}_a"].float(), parts[f"hada_w{number}_b"].float()
    core = parts.get(f"hada_t{number}")
    if core is None:
        return up, down
    return up.t(), tucker.folded(core, down).flatten(1)
