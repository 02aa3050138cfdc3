"""An adapter in a network's weights, for as long as a block lasts."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..diffusion.denoiser import Denoiser
from ..errors import LoRA2Error


@contextmanager
def applied(
    denoiser: Denoiser, factors: Mapping[str, tuple[Tensor, Tensor]], strength: float = 1.0
) -> Iterator[None]:
    """W + strength · ΔW in every adapted layer within the block; the very weights come back after.

    factors: module name → (down [D, n…], up [m, D…]), as TrainResult has them. Raises LoRA2Error
    for a component that the network has not, or that has another shape there.
    """
    layers = {
        denoiser.module_name(name): module
        for name, module in denoiser.network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    originals = []
    try:
        for name, (down, up) in factors.items():
            layer = layers.get(name)
            change = up.flatten(1) @ down.flatten(1)
            weight = None if layer is None else layer.weight
            if weight is None or weight.flatten(1).shape != change.shape:
                found = "is not there" if weight is None else f"is {tuple(weight.shape)}"
                raise LoRA2Error(
                    f"component {name} changes a weight of {tuple(change.shape)}, which {found} in "
                    "this network; use the model that the adapter was trained for"
                )
            originals.append((layer, weight))
            changed = torch.add(weight, change.view_as(weight).to(weight), alpha=strength)
            layer.weight = nn.Parameter(changed.detach(), requires_grad=False)
        yield
    finally:
        for layer, weight in originals:
            layer.weight = weight
