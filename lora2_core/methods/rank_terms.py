"""The price of ranks in the loss of LoRA² (arXiv 2603.21884, equation 12, and a form of ours)."""

from torch import Tensor

from ..config import QUANTILE
from ..layers.importance import log_mass

_ROWS = 100  # that λ_r is the price of


def rank_penalty(nu: Tensor, nu_target: float | Tensor, reduction: str = "sum") -> Tensor:
    """Σ_ℓ |ν_ℓ − ν_target| [eq. 12]; nu: [L]. `mean` divides by L."""
    return _reduced((nu - nu_target).abs(), reduction)


def row_penalty(
    nu: Tensor, nu_target: float | Tensor, reduction: str = "sum", quantile: float = QUANTILE
) -> Tensor:
    """Σ_ℓ |t_ℓ − t_target| / 100 with t = −ln(1−q)/ν, the rows that a component has [ours].

    Every row costs the same. Along ν [eq. 12] a row is the cheaper the more there are, as 1/t²:
    a component that gains more from its next row than that costs grows to the cap, all others
    shrink to the target, and where they started decides which. nu: [L]. `mean` divides by L.
    """
    rows = log_mass(quantile) / nu
    target = log_mass(quantile) / nu_target
    return _reduced((rows - target).abs(), reduction) / _ROWS


def _reduced(distance: Tensor, reduction: str) -> Tensor:
    return distance.mean() if reduction == "mean" else distance.sum()
