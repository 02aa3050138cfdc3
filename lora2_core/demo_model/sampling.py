"""Draws pictures with a denoiser: Euler steps from noise, with classifier-free guidance."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..backbones.diffusers_unet import DiffusersUNet


def sigmas(denoiser: DiffusersUNet, steps: int) -> tuple[Tensor, Tensor]:
    """(σ [steps + 1], falling to 0; t [steps]): evenly spaced times from the noisiest to the first.

    σ = √(1/snr); between whole times log σ is interpolated, and the network is told the whole time
    whose log σ is nearest. This is what ComfyUI does with its `normal` scheduler.
    """
    # halfway between two times the last bit decides, and it is to decide as ComfyUI's does
    logs = -0.5 * denoiser.snr(torch.arange(denoiser.timesteps)).double().log()
    t = torch.linspace(denoiser.timesteps - 1, 0, steps)
    low, high, share = t.floor().long(), t.ceil().long(), t.frac().double()
    found = torch.lerp(logs[low], logs[high], share).exp().float()
    told = (found.log()[:, None] - logs.float()).abs().argmin(1)
    return torch.cat([found, torch.zeros(1)]), told.float()


@torch.no_grad()
def sample(
    denoiser: DiffusersUNet,
    noise: Tensor,
    positive: Mapping[str, Tensor],
    negative: Mapping[str, Tensor],
    *,
    steps: int = 25,
    guidance: float = 4.0,
) -> Tensor:
    """Latents [b, 4, h, w] from standard normal noise of that shape.

    positive, negative: conditioning as DiffusersUNet.predict takes it, [b, …].
    """
    levels, times = sigmas(denoiser, steps)
    both = {name: torch.cat([positive[name], negative[name]]) for name in positive}
    x = noise * (1 + levels[0] ** 2) ** 0.5
    for sigma, following, t in zip(levels, levels[1:], times, strict=False):
        scaled = x / (1 + sigma**2) ** 0.5
        t = t.expand(2 * len(x))
        told, free = denoiser.predict(torch.cat([scaled, scaled]), t, both).chunk(2)
        epsilon = free + guidance * (told - free)
        x = x + epsilon * (following - sigma)
    return x
