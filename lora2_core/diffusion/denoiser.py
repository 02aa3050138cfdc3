"""What the training loop needs of a diffusion model, whichever library holds it."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn


class Denoiser(Protocol):
    """A frozen network with its noise schedule.

    network: adapted layers are its modules, and the names in the file come from module_name.
    blocks: the modules worth recomputing in the backward pass (transformer and residual blocks).
    dtype: what the network computes in by itself, given fp32; None if its parts differ in that.
    timesteps: how many noise levels there are; t runs from 0 to timesteps − 1. predicts_v: v
    instead of ε.
    """

    network: nn.Module
    blocks: list[nn.Module]
    device: torch.device
    dtype: torch.dtype | None
    timesteps: int
    predicts_v: bool

    def corrupt(self, latents: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(noisy latents, training target), both [b, c, h, w]; t: [b], int64.

        The target is in the model's own prediction space: ε, v, or velocity.
        """

    def predict(self, noisy: Tensor, t: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        """The network's raw output [b, c, h, w] for the result of corrupt."""

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio of corrupt's result at t: [b], fp32."""

    def module_name(self, name: str) -> str:
        """The name that the file gives to module `name` of the network (sgm style)."""
