"""A convolution in Tucker form: a k × k core between two factors of one position each."""

import torch
from torch import Tensor

Shape = tuple[int, ...]


def sized(a: Shape, b: Shape, core: Shape | None) -> tuple[int, Shape] | None:
    """(rank, shape) of a product of two factors, or of one in Tucker form; None if they do not fit.

    a [m, r], b [r, n]; with a core [r, s, k, k]: a [r, m], b [s, n].
    """
    if len(a) != 2 or len(b) != 2:
        return None
    if core is None:
        return (a[1], (a[0], b[1])) if a[1] == b[0] else None
    if len(core) != 4 or core[:2] != (a[0], b[0]):
        return None
    return a[0], (a[1], b[1], *core[2:])


def folded(core: Tensor, down: Tensor) -> Tensor:
    """The core folded into the down factor, down'_m = Σ_n core_mn down_n.

    core: [r, s, k, k]. down: [s, in]. Returns [r, in, k, k] in fp32.
    """
    return torch.einsum("mnhw,nj->mjhw", core.float(), down.float())
