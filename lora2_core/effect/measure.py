"""The effect of one component's directions on the loss [ours].

A component adds B A x to its layer's output, Λ folded in. With x its input, h = A x its hidden
activation, g = ∂L/∂(output) and p = Bᵀ g = ∂L/∂h, a change E of BA changes the loss, to second
order and with the curvature taken as G ⊗ C (G = E[g gᵀ], C = E[x xᵀ]; Martens and Grosse, arXiv
1503.05671), by ‖G^½ E C^½‖² up to one factor for all layers. What an adapter can lose is
E = B M A, and for that G and C need not be known: the norm is that of Lpᵀ M Lq, where
P = E[p pᵀ] = Lp Lpᵀ and Q = E[h hᵀ] = Lq Lqᵀ are as small as the rank. All of it is the same for
the factors B N and N⁻¹ A.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.linalg import LinAlgError

from ..layers.decompose import decompose

# of a diagonal that is scaled to 1: the least eigenvalue that a moment is taken to have. Directions
# are oblique, by up to 1/√ of it, and their factors, in fp32, must add up to the whole again
_RIDGE = 1e-6
_NOISE = 1e-13  # of the largest singular value: below it, what fp64 makes of two roots is noise


class Moments(NamedTuple):
    """p: P = E[p pᵀ] and q: Q = E[h hᵀ], [r, r] each, symmetric, without negative eigenvalues."""

    p: Tensor
    q: Tensor


class Directions(NamedTuple):
    """A component's best directions of every number at once.

    B @ left[:, :k] and right[:k] @ A are the best factors of rank k. left: [r, r], right: [r, r],
    or None where the rows are in order themselves; effects: [r], falling: what each direction is
    worth, 0 where there is nothing more. fp64.
    """

    left: Tensor | None
    effects: Tensor
    right: Tensor | None


def root(moment: Tensor) -> Tensor:
    """L [r, r] with L Lᵀ = moment, in fp64, but for 1e-6 of its diagonal, by which a singular one
    becomes regular. By eigenvalues, and with the diagonal scaled to 1 before, so that a small row
    keeps its digits beside a large one.

    Raises LinAlgError for numbers that are not finite.
    """
    moment = moment.double()
    if not torch.isfinite(moment).all():
        raise LinAlgError("a moment is not finite")
    size = moment.diagonal().clamp(min=0).sqrt()
    # a row of which nothing is known yet, such as one that has just joined, is small but there
    size = torch.where(size > 0, size, _RIDGE**0.5 * size.amax())
    inverse = torch.where(size > 0, 1 / size, 0)
    eigenvalues, vectors = torch.linalg.eigh(inverse[:, None] * moment * inverse)
    return size[:, None] * vectors * eigenvalues.clamp(min=_RIDGE).sqrt()


def effect(change: Tensor, moments: Moments) -> float:
    """Of a change E = B M A: ‖Lpᵀ M Lq‖² = tr(P M Q Mᵀ); change: M [r, r]."""
    change = change.double()
    return float((moments.p.double() @ change * (change @ moments.q.double())).sum())


def whole(moments: Moments) -> Tensor:
    """Of all of BA, a number on the moments' device: tr(P Q), the sum of all s²."""
    return (moments.p * moments.q).sum()


def directions(moments: Moments) -> Directions:
    """From the singular value decomposition Lpᵀ Lq = U S Vᵀ: effects = S², left = Lq V / √S,
    right = Uᵀ Lpᵀ / √S.

    These are B Lp⁻ᵀ U √S and √S Vᵀ Lq⁻¹ A without an inverse, since Lpᵀ Lq V = U S. By Eckart and
    Young no B X A with X of rank k loses less than the sum of the effects beyond k. Raises
    LinAlgError where there is no decomposition.
    """
    left, right = root(moments.q), root(moments.p)
    u, s, vt = decompose(right.t() @ left)
    s = torch.where(s > _NOISE * s[:1], s, 0)
    inverse = torch.where(s > 0, s.rsqrt(), 0)
    return Directions(left @ vt.t() * inverse, s.square(), inverse[:, None] * (u.t() @ right.t()))


def best(up: Tensor, down: Tensor, found: Directions, rank: int) -> tuple[Tensor, Tensor]:
    """The factors up [m, k] and down [k, n] of rank k, in fp64, that lose the least effect.

    up: B [m, r], down: A [r, n]. Both factors of a direction have one norm.
    """
    up, down = up.double(), down.double()
    if found.left is None:
        up, down = up[:, :rank], down[:rank]
    else:
        up, down = up @ found.left[:, :rank], found.right[:rank] @ down
    ratio = (down.norm(dim=1) / up.norm(dim=0)).sqrt().nan_to_num(1.0, 1.0, 1.0)
    return up * ratio, down / torch.where(ratio > 0, ratio, 1)[:, None]


def seen_through(moments: Moments, left: Tensor, right: Tensor) -> Moments:
    """Of the component with the factors B left and right A: p turns into leftᵀ p, h into right h.

    left: [r, k], right: [k, r].
    """
    p, q = moments.p.to(left.dtype), moments.q.to(right.dtype)
    return Moments(left.t() @ p @ left, right @ q @ right.t())
