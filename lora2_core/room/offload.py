"""Blocks whose weights wait in main memory and visit the device while they are computed with.

With checkpointing a block's weights are needed twice a step: in its forward pass, and when that is
recomputed for its backward pass. In between autograd keeps nothing of the block, so that no more
than one block's weights are on the device at once beside those that stay there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import torch
from torch import Tensor, nn

from ..errors import LoRA2Error

_Place = tuple[dict[str, Tensor | None], str]  # a module's own parameters or buffers, and a name


def weights_of(block: nn.Module) -> int:
    """Bytes."""
    return sum(store[name].nbytes for module in block.modules() for store, name in _own(module))


def blocks_for(blocks: Sequence[nn.Module], size: int) -> list[nn.Module]:
    """The fewest blocks that have to wait so that the device holds `size` bytes less; all of them
    if that is not enough, and none for a size of 0.
    """
    largest = sorted(blocks, key=weights_of, reverse=True)
    for count in range(len(largest) + 1):
        if gain(largest[:count]) >= size:
            return largest[:count]
    return largest


def gain(blocks: Sequence[nn.Module]) -> int:
    """Bytes that the device holds less while these wait: all but the largest, which may visit."""
    sizes = [weights_of(block) for block in blocks]
    return sum(sizes) - max(sizes, default=0)


def waits(block: nn.Module, device: torch.device) -> bool:
    """Whether its weights are elsewhere than on the device."""
    return any(weight.device.type != device.type for weight in block.parameters())


def bytes_on(network: nn.Module, device: torch.device) -> int:
    """Of its weights that are on the device."""
    tensors = (*network.parameters(), *network.buffers())
    return sum(tensor.nbytes for tensor in tensors if tensor.device.type == device.type)


def in_main_memory(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy there; page-locked if `device` is a GPU, which then fetches it by itself."""
    if device.type == "cuda":
        with suppress(RuntimeError):  # the system's limit: slower, and no reason to stop
            return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor)
    return torch.empty_like(tensor, device="cpu").copy_(tensor)


def brought(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device. Raises LoRA2Error if it has no room."""
    try:
        return tensor.detach().to(device)
    except torch.cuda.OutOfMemoryError:
        raise LoRA2Error(
            "the model does not fit into the GPU's memory; leave gradient_checkpointing on and "
            "offload at auto, or take a smaller model"
        ) from None


def spread(network: nn.Module, waiting: Sequence[nn.Module], device: torch.device) -> None:
    """Brings the network to the device, but for these blocks, whose weights go to main memory.

    Raises LoRA2Error if the device has no room.
    """
    inside = {module for block in waiting for module in block.modules()}
    for module in network.modules():
        move = in_main_memory if module in inside else brought
        for store, name in _own(module):
            store[name] = _like(store[name], move(store[name].detach(), device))


@contextmanager
def visiting(blocks: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Within the block, weights of these are brought to `device` for each call of their module."""
    with ExitStack() as stack:
        for block in blocks:
            for module in block.modules():
                places = list(_own(module))
                if places:
                    bring, send = _visit(places, device)
                    for hook in (
                        module.register_forward_pre_hook(bring, prepend=True),
                        module.register_forward_hook(send, always_call=True),
                    ):
                        stack.callback(hook.remove)
        yield


def _own(module: nn.Module) -> Iterator[_Place]:
    """Where the module itself, and no part of it, keeps tensors."""
    for store in (module._parameters, module._buffers):
        for name, tensor in store.items():
            if tensor is not None:
                yield store, name


def _visit(places: list[_Place], device: torch.device) -> tuple[Callable, Callable]:
    waiting: list[Tensor] = []

    def bring(*_) -> None:
        waiting[:] = [store[name] for store, name in places]
        for (store, name), tensor in zip(places, waiting, strict=True):
            store[name] = _like(tensor, tensor.detach().to(device, non_blocking=True))

    def send(*_) -> None:
        for (store, name), tensor in zip(places, waiting, strict=True):
            store[name] = tensor

    return bring, send


def _like(tensor: Tensor, copy: Tensor) -> Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copy, requires_grad=False)
    return copy
