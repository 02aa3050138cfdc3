"""A factor's numbers times another number, in fp32, whatever their sizes."""

import math

import torch
from torch import Tensor

from ..errors import LoRA2Error
from ..layers.decompose import shifted

_LEAST = 2.0**-100  # below it, and beyond its inverse, the ends of fp32 are near


def scaled(up: Tensor, down: Tensor, factor: float, what: str) -> tuple[Tensor, Tensor]:
    """(factor · up [m, r], down [r, n]) in fp32, from any floating-point dtype.

    Where fp32 does not hold one of them, a power of two moves from one to the other. what: names
    the component for the message of LoRA2Error, which is raised for NaN and infinity, and where
    both together are beyond fp32.
    """
    narrow, high = up.float(), down.float()
    wide = narrow * factor
    sizes = [abs(factor), *map(_largest, (narrow, wide, high))]
    if factor == 0 or all(_LEAST < size < 1 / _LEAST for size in sizes):
        return wide, high
    up, down = up.double(), down.double()
    largest = _largest(up), _largest(down)
    if not all(map(math.isfinite, largest)):
        raise LoRA2Error(f"{what} holds NaN or infinity; save that LoRA again")
    if 0 in largest:
        return torch.zeros_like(wide), torch.nan_to_num(high, 0, 0, 0)
    rest, power = math.frexp(factor)
    exponents = [math.frexp(size)[1] for size in largest]
    to_up = (sum(exponents) + power + 1) // 2
    to_down = sum(exponents) + power - to_up
    wide = (shifted(up, -exponents[0]) * rest * 2.0).float()
    high = shifted(down, -exponents[1]).float()
    wide, high = shifted(wide, to_up - 1), shifted(high, to_down)
    if not (torch.isfinite(wide).all() and torch.isfinite(high).all()):
        raise LoRA2Error(
            f"{what} has numbers up to {largest[0]:.3g} and {largest[1]:.3g} at a scale of "
            f"{factor:.3g}, beyond the range of fp32; give it a smaller weight or alpha"
        )
    return wide, high


def _largest(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, torch.inf))
