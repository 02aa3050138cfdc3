"""A convolution in Tucker form: a k × k core between two factors of one position each."""

import torch
from torch import Tensor


def folded(core: Tensor, down: Tensor) -> Tensor:
    """The core folded into the down factor, down'_m = Σ_n core_mn down_n.

    core: [r, s, k, k]. down: [s, in]. Returns [r, in, k, k] in fp32.
    """
    return torch.einsum("mnhw,nj->mjhw", core.float(), down.float())
