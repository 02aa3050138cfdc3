"""Singular values of a small dense matrix, tried again in another way where LAPACK gives up."""

from contextlib import suppress

import torch
from torch import Tensor
from torch.linalg import LinAlgError

_GRAM = 1e-7  # of the largest σ: what a Gram matrix in fp64 still tells from 0


def decompose(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U [p, k], σ [k] falling, Vᵀ [k, q] of a matrix [p, q], k = min(p, q), in its own dtype.

    Where torch's own does not converge: in fp64, and then from the eigenvectors of the Gram matrix
    in fp64, by which σ below 1e-7 of the largest count as 0. Raises LinAlgError if none of them
    finds numbers.
    """
    for way in (_plain, _in_fp64, _from_gram):
        with suppress(LinAlgError):
            found = way(matrix)
            if all(bool(torch.isfinite(part).all()) for part in found):
                return found
    raise LinAlgError("no singular value decomposition")


def singular(matrix: Tensor) -> Tensor:
    """σ [k] alone, falling; as in decompose."""
    with suppress(LinAlgError):
        sigma = torch.linalg.svdvals(matrix)
        if torch.isfinite(sigma).all():
            return sigma
    return decompose(matrix)[1]


def shifted(tensor: Tensor, exponent: int) -> Tensor:
    """tensor · 2^exponent, in two steps: the power alone may be beyond the dtype's range."""
    if exponent == 0:
        return tensor
    half = exponent // 2
    return tensor * 2.0**half * 2.0 ** (exponent - half)


def _plain(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.linalg.svd(matrix, full_matrices=False)


def _in_fp64(matrix: Tensor) -> tuple[Tensor, ...]:
    return tuple(part.to(matrix.dtype) for part in _plain(matrix.double()))


def _from_gram(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if matrix.shape[0] < matrix.shape[1]:
        u, sigma, vt = _from_gram(matrix.t())
        return vt.t(), sigma, u.t()
    wide = matrix.double()
    squares, v = torch.linalg.eigh(wide.t() @ wide)  # rising
    sigma, v = squares.flip(0).clamp(min=0).sqrt(), v.flip(1)
    sigma = torch.where(sigma > _GRAM * sigma[:1], sigma, 0)
    u = wide @ v * torch.where(sigma > 0, 1 / sigma, 0)
    return u.to(matrix.dtype), sigma.to(matrix.dtype), v.t().to(matrix.dtype)
