"""A component's directions in the order in which a cut keeps them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import LoRA2Error
from ..layers.low_rank import mixers

_LARGEST_GRAM = 8192  # rows; of fp64, half a gigabyte


@dataclass(frozen=True)
class Split:
    """ΔW = weight · up · left · right · down, cut by keeping the first of its directions.

    up: [m, r], down: [r, n]. left [r, k] and right [k, r]: low_rank.mixers, or None where up and
    down are in order themselves. energies: [k], fp64, what each direction adds to ‖ΔW‖² when those
    before it are kept.
    """

    up: Tensor
    down: Tensor
    left: Tensor | None
    right: Tensor | None
    energies: Tensor
    weight: float = 1.0

    def weighted(self, weight: float) -> "Split":
        """The same of weight · ΔW."""
        return replace(self, weight=self.weight * weight, energies=self.energies * weight * weight)

    def mixed(self, dtype: torch.dtype) -> "Split":
        """With up and down in order themselves, in another dtype, to keep."""
        up, down = replace(self, weight=1.0).kept(len(self.energies))
        return replace(self, up=up.to(dtype), down=down.to(dtype), left=None, right=None)

    def kept(self, rank: int) -> tuple[Tensor, Tensor]:
        """(up [m, rank], down [rank, n]) in fp32, the weight in up."""
        if self.left is None:
            return self.up[:, :rank].float() * self.weight, self.down[:rank].float()
        return self.up @ (self.left[:, :rank] * self.weight), self.right[:rank] @ self.down


def split(up: Tensor, down: Tensor, how: str) -> Split:
    """Of up @ down, up [m, r] and down [r, n] in fp32; how: one of cut.HOW.

    Raises LoRA2Error for a prefix of more rows than the memory of a Gram matrix allows.
    """
    if how == "prefix":
        if down.shape[0] > _LARGEST_GRAM:
            raise LoRA2Error(
                f"a component has rank {down.shape[0]}; a prefix is taken of at most "
                f"{_LARGEST_GRAM}, use svd"
            )
        return Split(up, down, None, None, _error_drops(up, down))
    left, sigma, right = mixers(up, down)
    return Split(up, down, left, right, sigma.double().square())


def _error_drops(up: Tensor, down: Tensor) -> Tensor:
    """‖Σ_{i≥k} b_i a_iᵀ‖² − ‖Σ_{i>k} b_i a_iᵀ‖² for every k, from r × r Gram matrices."""
    product = (up.double().T @ up.double()) * (down.double() @ down.double().T)
    # the squared norm of the rows from k on is the sum of the lower right block
    tails = product.flip(0, 1).cumsum(0).cumsum(1).diagonal().flip(0)
    return tails - torch.cat([tails[1:], tails.new_zeros(1)])
