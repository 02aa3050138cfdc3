"""Whether the disk has room for what a run leaves."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from ..config import TrainConfig
from ..diffusion.denoiser import Denoiser
from ..errors import LoRA2Error
from .need import amount, kept

_AT_ONCE = 3  # two that are kept, and one in writing


def check_disk(
    folder: Path, denoiser: Denoiser, config: TrainConfig, ranks: Sequence[int]
) -> str | None:
    """For adapter and state at these ranks, one a component in the file's order.

    Raises LoRA2Error where not even one of each fits. Returns a warning where they do not fit as
    often as they are on the disk together; None if they do.
    """
    free, need = shutil.disk_usage(folder).free, kept(denoiser, config, ranks)
    told = f"{folder} has {amount(free)} left, and adapter and state of the run take"
    if free < need:
        raise LoRA2Error(
            f"{told} about {amount(need)}; make room, choose another folder, or start from lower "
            "ranks"
        )
    if free < _AT_ONCE * need:
        return f"{told} about {amount(need)}, {_AT_ONCE} times over while a new state is written"
    return None
