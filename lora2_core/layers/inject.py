"""Chooses the layers to adapt, and attaches adapters to them for as long as a block lasts."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from ..diffusion.denoiser import Denoiser
from ..errors import LoRA2Error
from .adapter import Adapter

_ATTENTION = re.compile(r"\.attn[12]\.(to_q|to_k|to_v|to_out\.0)$")
_TEXT = re.compile(r"^te[12]\.(text_model\.)?encoder\.layers\.\d+\.self_attn\.(q|k|v|out)_proj$")
_FEED_FORWARD = re.compile(r"\.ff\.net\.(0\.proj|2)$")


def find_layers(network: nn.Module, targets: str) -> dict[str, nn.Module]:
    """Layers that `targets` (config.TARGETS) selects, by module name, in the network's order.

    Of text encoders (text_encoders.WithText) it is the attention whatever `targets` is. Raises
    LoRA2Error if there are none.
    """
    wanted: dict[str, Callable[[str, nn.Module], bool]] = {
        "attention": lambda name, _: bool(_ATTENTION.search(name)),
        "attention+feed_forward": lambda name, _: bool(
            _ATTENTION.search(name) or _FEED_FORWARD.search(name)
        ),
        "all_linear": lambda _, layer: isinstance(layer, nn.Linear),
        "all_linear+conv": lambda _, layer: (
            isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
        ),
    }
    found = {
        name: layer
        for name, layer in network.named_modules()
        if getattr(layer, "weight", None) is not None
        and (_TEXT.match(name) if name[:4] in ("te1.", "te2.") else wanted[targets](name, layer))
    }
    if not found:
        raise LoRA2Error(
            f"{type(network).__name__} has no layer for targets {targets!r}; "
            "train a UNet with transformer blocks (SDXL, KOALA), or choose other targets"
        )
    return found


def cross_attention_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Every text cross-attention (`attn2`), by module name, in the network's order."""
    return {
        name: module
        for name, module in network.named_modules()
        if name.endswith(".attn2") and hasattr(module, "to_q") and hasattr(module, "heads")
    }


def file_order(name: str) -> list[tuple[int, int | str]]:
    """Sorts single-file names by their parts, numbers as numbers: down, middle, up.

    Libraries register a network's modules in orders of their own; a seed must not depend on that.
    """
    return [(0, int(part)) if part.isdigit() else (1, part) for part in name.split(".")]


def create_adapters(
    network: nn.Module, targets: str, rank: int, device: torch.device, moments: bool = True
) -> list[Adapter]:
    """One adapter, still without rows, a selected layer.

    `rank` is the highest that the run may reach; above the size of a linear layer it is refused.
    A convolution with fewer channels (the first and the last have 4) is held at its own size.
    moments: as Adapter has it.
    """
    layers = find_layers(network, targets)
    adapters = [Adapter(name, layer, device, moments) for name, layer in layers.items()]
    for adapter in adapters:
        if rank > adapter.max_rank and isinstance(adapter.layer, nn.Linear):
            size = f"{adapter.out_features}×{adapter.in_features}"
            raise LoRA2Error(
                f"rank {rank} is above the size of layer {adapter.name} ({size}); "
                f"choose at most {adapter.max_rank}"
            )
    return adapters


def ordered_adapters(
    denoiser: Denoiser, targets: str, rank: int, moments: bool = True
) -> list[Adapter]:
    """create_adapters for a denoiser's network, in the order of the file."""
    adapters = create_adapters(denoiser.network, targets, rank, denoiser.device, moments)
    return sorted(adapters, key=lambda adapter: file_order(denoiser.module_name(adapter.name)))


@contextmanager
def attached(adapters: list[Adapter]) -> Iterator[None]:
    """Adds each adapter's ΔW x to its layer's output within the block."""
    with ExitStack() as stack:
        for adapter in adapters:
            handle = adapter.layer.register_forward_hook(_add_delta(adapter))
            stack.callback(handle.remove)
        yield


def _add_delta(adapter: Adapter) -> Callable:
    def hook(layer, args, output):
        return output + adapter.delta(args[0]).to(output.dtype)

    return hook
