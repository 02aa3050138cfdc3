"""The importance of a row, f(x; ν), and the rank it implies (LoRA², arXiv 2603.21884, section 3).

f is a geometric distribution over the 0-based row index x. ν > 0 is learned, one number a
component: a large ν gathers the mass in the first rows (low rank), a small ν spreads it.
Everything is fp32: in half precision neighbouring ranks above 100 cannot be told apart.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ..config import QUANTILE


def log_mass(q: float = QUANTILE) -> float:
    """L = −ln(1−q): rows needed are L/ν."""
    return -math.log1p(-q)


def importance(nu: Tensor, rank: int) -> Tensor:
    """f(x; ν) = e^{−νx}(1−e^{−ν}) for x = 0..rank−1, not renormalised [eq. 10, 0-based].

    nu: scalar or [L], fp32. Returns [rank] or [L, rank].
    """
    x = torch.arange(rank, device=nu.device, dtype=nu.dtype)
    nu = nu.unsqueeze(-1)
    return -torch.expm1(-nu) * torch.exp(-nu * x)


def importances(nu: Tensor, ranks: Sequence[int], unit_energy: bool = False) -> tuple[Tensor, ...]:
    """f of many components of unequal rank in a handful of kernels.

    nu: [L], fp32. Returns L tensors, the i-th of shape [ranks[i]]. unit_energy [ours]: instead of
    f, f over the root of Σ_{x≥0} f² = tanh(ν/2), which is e^{−νx}√(1−e^{−2ν}): ν then moves the
    shape alone. f itself grows with ν in norm, so that ν is a gain of the update as well, and is
    pulled by how fast the update should be, whatever rank it needs.
    """
    x = torch.cat([torch.arange(rank, dtype=nu.dtype) for rank in ranks]).to(nu.device)
    owner = torch.repeat_interleave(torch.arange(len(ranks)), torch.tensor(ranks)).to(nu.device)
    spread = nu[owner]
    first = torch.sqrt(-torch.expm1(-2 * spread)) if unit_energy else -torch.expm1(-spread)
    return (first * torch.exp(-spread * x)).split(list(ranks))


def sum_of_squares(nu: float, rank: int, unit_energy: bool = False) -> float:
    """Σ_{x<rank} f² = tanh(ν/2)(1−e^{−2ν·rank}), the variance term of the initialisation.

    unit_energy: of what importances gives then, 1−e^{−2ν·rank}.
    """
    kept = -math.expm1(-2 * nu * rank)
    return kept if unit_energy else math.tanh(nu / 2) * kept


def quantile_rank(nu: Tensor, r_min: int, r_max: int | Tensor, q: float = QUANTILE) -> Tensor:
    """Rows that hold the share q of the mass: ⌈L/ν⌉, made safe against float noise.

    t = L/ν; D = clamp(⌈t − min(0.5, 0.01 t)⌉, r_min, r_max). A plain ceil gives r+1 at ν = L/r
    for about one r in twelve; the slack makes D(L/r) = r for every r ≤ 512.
    nu: [L], fp32; r_max: one bound or [L]. Returns int64 [L], without gradient.
    """
    with torch.no_grad():
        t = log_mass(q) / nu
        rank = torch.ceil(t - torch.clamp(0.01 * t, max=0.5))
        r_max = torch.as_tensor(r_max, device=nu.device, dtype=rank.dtype)
        return torch.minimum(rank.clamp(min=r_min), r_max).long()


def nu_for_rank(rank: float, q: float = QUANTILE) -> float:
    """ν = L/rank, the centre of the values that quantile_rank maps to `rank`."""
    return log_mass(q) / rank


def nu_of(rho: Tensor) -> Tensor:
    """ν = softplus(ρ), which keeps ν positive whatever the optimiser does to ρ."""
    return softplus(rho, threshold=30.0)


def rho_of(nu: Tensor) -> Tensor:
    """ρ with softplus(ρ) = ν: ν + ln(1−e^{−ν}), exact also for ν far below 1."""
    return nu + torch.log(-torch.expm1(-nu))
