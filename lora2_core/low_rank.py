"""Algebra of low-rank updates, never forming the dense matrix."""

import torch
from torch import Tensor


def product_svd(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The singular value decomposition of up @ down, from two QRs and one small SVD.

    up: [m, r], down: [r, n], any float dtype; computed in fp32 at least. Returns U [m, k],
    σ [k] falling, Vᵀ [k, n] with k = min(m, r, n). O((m+n)r² + r³).
    """
    dtype = torch.promote_types(up.dtype, torch.float32)
    q_up, r_up = torch.linalg.qr(up.to(dtype))
    q_down, r_down = torch.linalg.qr(down.to(dtype).t())
    u, sigma, vt = torch.linalg.svd(r_up @ r_down.t(), full_matrices=False)
    return q_up @ u, sigma, vt @ q_down.t()


def energy_rank(sigma: Tensor, share: float) -> int:
    """The smallest k ≥ 1 with Σ_{i≤k} σ² ≥ share · Σσ²; sigma: [k], falling."""
    energy = sigma.double().square().cumsum(0)
    return min(int((energy < share * energy[-1]).sum()) + 1, len(sigma))
