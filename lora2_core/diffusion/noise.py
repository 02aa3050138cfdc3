"""The noise that training adds."""

import torch
from torch import Tensor


def draw_noise(shape: torch.Size, offset: float, generator: torch.Generator) -> Tensor:
    """N(0, 1) [b, c, h, w], plus `offset` times N(0, 1) that all of a channel shares.

    With it a model can learn to change the mean of a picture, which white noise hardly touches:
    dark and bright pictures (Guttenberg, "Diffusion with offset noise").
    """
    noise = torch.randn(shape, generator=generator)
    if offset == 0:
        return noise
    return noise + offset * torch.randn(*shape[:2], 1, 1, generator=generator)
