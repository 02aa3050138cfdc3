"""One component with the moments of random gradients and inputs, small and dense."""

import reference
import torch

from lora2_core.effect.measure import Moments

M, N, R = 9, 7, 4


def component(seed=0, m=M, n=N, r=R, scales=None):
    """(up, down, moments, G, C) of random gradients and inputs."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    up, down = draw(m, r), draw(r, n)
    if scales is not None:
        up = up * torch.tensor(scales, dtype=torch.float64)
    gradients, inputs = draw(40, m) @ draw(m, m), draw(50, n) @ draw(n, n)
    g, c = reference.second_moment(list(gradients)), reference.second_moment(list(inputs))
    p = reference.second_moment(list(gradients @ up))
    q = reference.second_moment(list(inputs @ down.t()))
    return up, down, Moments(p, q), g, c
