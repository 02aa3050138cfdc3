"""The three terms of the LoRA² loss (arXiv 2603.21884, equations 11 to 14)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .importance import QUANTILE, log_mass

_ROWS = 100  # that λ_r is the price of


def prediction_loss(prediction: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error in the model's own prediction space [eq. 11], in fp32.

    prediction, target: [b, …]. weights: [b], of each image's own mean.
    """
    if weights is None:
        return F.mse_loss(prediction.float(), target.float())
    errors = F.mse_loss(prediction.float(), target.float(), reduction="none")
    return (weights * errors.flatten(1).mean(1)).mean()


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


def attention_entropy(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Mean over batch, heads and queries of −Σ_tokens p log p [eq. 13], in nats.

    query: [b, queries, heads·d], key: [b, tokens, heads·d], any float dtype; fp32 inside. log p
    comes from the logits, so that no log of a vanishing p is taken.
    """
    with torch.autocast(query.device.type, enabled=False):
        q = query.float().unflatten(-1, (heads, -1)).transpose(1, 2)
        k = key.float().unflatten(-1, (heads, -1)).transpose(1, 2)
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        log_p = logits.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1).mean()
