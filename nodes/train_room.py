"""The estimate before a run's first step, and what of the model waits in main memory."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..lora2_core.config import TrainConfig
from ..lora2_core.diffusion.data import Example
from ..lora2_core.room.disk import check_disk
from ..lora2_core.room.need import amount
from ..lora2_core.room.offload import bytes_on, weights_of
from ..lora2_core.room.plan import room_for
from ..lora2_core.training.plan import starting_ranks
from .host.memory import available_memory
from .host.model import HostDenoiser
from .host.progress import Progress
from .host.text import HostWithText


def make_room(
    denoiser: HostDenoiser | HostWithText,
    config: TrainConfig,
    examples: Sequence[Example],
    ranks: Mapping[str, int] | None,
    folder: Path,
    progress: Progress,
) -> None:
    """Says what the run needs of the GPU, and moves what does not fit to main memory.

    ranks: component → the rank that it starts from, or None. folder: of the run. Raises LoRA2Error
    if its disk is full.
    """
    starts = starting_ranks(denoiser, config, ranks)
    if tight := check_disk(folder, denoiser, config, starts):
        progress.trouble(tight)
    on_gpu = denoiser.device.type != "cpu"
    if not on_gpu and config.offload != "all":
        return
    free = None
    if on_gpu:
        free = available_memory() + bytes_on(denoiser.network, denoiser.device)
    room = room_for(denoiser, config, examples, starts, free)
    logging.info(f"LoRA² {room.words}")
    if set(room.waiting) != set(denoiser.loan.waiting):
        denoiser.loan.offload(room.waiting)
    if room.waiting and config.offload == "auto":
        waiting = amount(sum(map(weights_of, room.waiting)))
        progress.trouble(f"To fit, {waiting} of the model wait in main memory: steps take longer")
    if room.short:
        progress.trouble(f"This may run out of memory: it {room.words}")
