"""When memory runs out in training: what is kept, and what would help."""

import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from ..diffusion.data import Example
from ..diffusion.denoiser import Denoiser
from ..errors import LoRA2Error
from ..training.loop import Training
from .need import CHECKPOINTING, OFFLOAD, amount, savings


class OutOfMemory(LoRA2Error):
    """A step did not fit."""


@contextmanager
def explained(
    training: Training,
    denoiser: Denoiser,
    examples: Sequence[Example],
    where: Callable[[], str],
    free: Callable[[], None],
) -> Iterator[None]:
    """Within the block, running out of memory ends in OutOfMemory, which says what would save most.

    examples: of the run. where: tells what was kept. free: gives back what a device holds in
    reserve, once the broken step's tensors are gone.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # the step's tensors hang there
        free()
        raise OutOfMemory(
            f"out of memory at step {training.done + 1} of {training.config.steps}. {where()}. "
            f"{_advice(training, denoiser, examples)}"
        ) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Of a GPU, or of the CPU's allocator."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in words or "can't allocate memory" in words
    )


def _advice(training: Training, denoiser: Denoiser, examples: Sequence[Example]) -> str:
    try:
        found = savings(denoiser, examples, training.config, training.starts)
    except Exception:  # an estimate must not hide what went wrong
        logging.getLogger(__name__).warning("no estimate of memory", exc_info=True)
        found = []
    if not found:
        return "Close what else uses this device's memory, or choose a smaller model"
    told = [
        f"{words} would save about {amount(saved)}"
        + (" (the run can go on with it)" if words in (CHECKPOINTING, OFFLOAD) else "")
        for words, saved in found
    ]
    return f"What would need less: {'; '.join(told)}"
