"""Whether a run fits its device, and what of the network waits in main memory so that it does."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from ..config import TrainConfig
from ..diffusion.data import Example
from ..diffusion.denoiser import Denoiser
from .need import MemoryNeed, amount, memory_need
from .offload import blocks_for, gain, waits, weights_of

_MARGIN = 0.08  # of the count: so much more torch's allocator took from an H100


@dataclass(frozen=True)
class Room:
    """waiting: the denoiser's blocks whose weights are to wait in main memory. words: what the run
    needs and what is there. short: whether that may not be enough.
    """

    waiting: list[nn.Module]
    words: str
    short: bool


def room_for(
    denoiser: Denoiser,
    config: TrainConfig,
    examples: Sequence[Example],
    ranks: Sequence[int],
    free: int | None,
) -> Room:
    """By config.offload, before there are adapters.

    ranks: as training.plan.starting_ranks gives them. free: bytes of the device, with those that
    the network has there; None if that is the CPU. Where the need cannot be told, blocks wait or
    stay as they do.
    """
    try:
        need = memory_need(denoiser, examples, config, ranks)
    except Exception as error:  # an estimate must not stop what it speaks of
        told = f"cannot tell how much memory this network needs ({error})"
        waiting = [block for block in denoiser.blocks if waits(block, denoiser.device)]
        return Room(_waiting(denoiser, config, 0) or waiting, told, False)
    if free is None:
        waiting = _waiting(denoiser, config, 0)
        return Room(waiting, f"needs {with_waiting(need, waiting)}", False)
    waiting = _waiting(denoiser, config, _with_margin(need) - free)
    need = with_waiting(need, waiting)
    return Room(waiting, f"needs {need}; {amount(free)} there", _with_margin(need) > free)


def with_waiting(need: MemoryNeed, waiting: Sequence[nn.Module]) -> MemoryNeed:
    """The need while the weights of these blocks wait in main memory."""
    return replace(
        need, weights=need.weights - gain(waiting), waiting=sum(map(weights_of, waiting))
    )


def _waiting(denoiser: Denoiser, config: TrainConfig, excess: int) -> list[nn.Module]:
    if config.offload == "all":
        return list(denoiser.blocks)
    if config.offload == "none" or not config.gradient_checkpointing:
        return []
    return blocks_for(denoiser.blocks, excess)


def _with_margin(need: MemoryNeed) -> int:
    return int(need.total * (1 + _MARGIN)) + 1
