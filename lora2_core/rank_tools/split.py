"""A component's directions in the order in which a cut keeps them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.linalg import LinAlgError

from ..effect.measure import Directions, best
from ..errors import LoRA2Error
from ..files.layout import survives_fp16
from ..layers.decompose import shifted
from ..layers.low_rank import mixers, moderate, rounding

_LARGEST_GRAM = 8192  # rows; of fp64, half a gigabyte


@dataclass(frozen=True)
class Split:
    """ΔW = weight · 2^exponent · up · left · right · down, cut by keeping the first of its
    directions.

    up: [m, r], down: [r, n]. left [r, k] and right [k, r]: low_rank.mixers, or None where up and
    down are in order themselves. energies: [k], fp64, what each direction adds to ‖ΔW‖² when those
    before it are kept. noise: low_rank.rounding of ΔW. exponent: even, half of it for each factor.
    """

    up: Tensor
    down: Tensor
    left: Tensor | None
    right: Tensor | None
    energies: Tensor
    noise: float
    exponent: int = 0
    weight: float = 1.0

    def weighted(self, weight: float) -> "Split":
        """The same of weight · ΔW."""
        return replace(
            self,
            weight=self.weight * weight,
            energies=self.energies * weight * weight,
            noise=self.noise * abs(weight),
        )

    def mixed(self, dtype: torch.dtype) -> "Split":
        """With up and down in order themselves, in another dtype if that holds them, to keep."""
        up, down = replace(self, weight=1.0).kept(len(self.energies))
        if dtype == torch.float16 and not (survives_fp16(up) and survives_fp16(down)):
            dtype = torch.float32
        return replace(
            self, up=up.to(dtype), down=down.to(dtype), left=None, right=None, exponent=0
        )

    def kept(self, rank: int) -> tuple[Tensor, Tensor]:
        """(up [m, rank], down [rank, n]) in fp32, the weight in up."""
        if self.left is None:
            return self.up[:, :rank].float() * self.weight, self.down[:rank].float()
        up = self.up @ (self.left[:, :rank] * self.weight)
        down = self.right[:rank] @ self.down
        return shifted(up, self.exponent // 2), shifted(down, self.exponent // 2)


def split(up: Tensor, down: Tensor, how: str, what: str) -> Split:
    """Of up @ down, up [m, r] and down [r, n] in fp32; how: one of cut.HOW. what: names the
    component for a message.

    Raises LoRA2Error for a prefix of more rows than the memory of a Gram matrix allows, and for
    numbers that cannot be decomposed.
    """
    if how == "prefix":
        if down.shape[0] > _LARGEST_GRAM:
            raise LoRA2Error(
                f"a component has rank {down.shape[0]}; a prefix is taken of at most "
                f"{_LARGEST_GRAM}, use svd"
            )
        noise = rounding(up, down)
        return Split(up, down, None, None, _error_drops(up, down, noise), noise)
    up, down, exponent = moderate(up, down)
    with decomposing(what):
        left, sigma, right = mixers(up, down)
    energies = sigma.double().square() * 4.0**exponent
    return Split(up, down, left, right, energies, rounding(up, down) * 2.0**exponent, exponent)


def split_by_effect(up: Tensor, down: Tensor, found: Directions) -> Split:
    """Of up @ down, up [m, r] and down [r, n], by what its directions do to the loss."""
    up, down = best(up, down, found, len(found.effects))
    return Split(up.float(), down.float(), None, None, found.effects, 0.0)


@contextmanager
def decomposing(what: str) -> Iterator[None]:
    """Within the block, a decomposition that is not found is a LoRA2Error that names the component.

    what: the component and whose it is.
    """
    try:
        yield
    except LinAlgError as error:
        raise LoRA2Error(
            f"the numbers of {what} have no singular value decomposition; save that LoRA again, "
            "or leave it out"
        ) from error


def _error_drops(up: Tensor, down: Tensor, noise: float) -> Tensor:
    """‖Σ_{i≥k} b_i a_iᵀ‖² − ‖Σ_{i>k} b_i a_iᵀ‖² for every k, from r × r Gram matrices.

    A norm below the noise is 0, so that what cancels keeps nothing.
    """
    product = (up.double().T @ up.double()) * (down.double() @ down.double().T)
    # the squared norm of the rows from k on is the sum of the lower right block
    tails = product.flip(0, 1).cumsum(0).cumsum(1).diagonal().flip(0)
    tails = torch.where(tails > noise * noise, tails, 0)
    return tails - torch.cat([tails[1:], tails.new_zeros(1)])
