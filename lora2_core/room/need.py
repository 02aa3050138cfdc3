"""What a run needs of memory, and what would make it less."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..config import TrainConfig
from ..diffusion.data import Batch, Example
from ..diffusion.denoiser import Denoiser
from ..layers.adapter import capacity_for
from ..layers.inject import ordered_adapters
from ..training.calibration import calibration_steps, probe_rows
from ..training.effects import gathers_effects
from .offload import gain, waits
from .trace import step_peak

CHECKPOINTING = "gradient_checkpointing"
OFFLOAD = "offload all"

_FP32 = 4  # bytes
_MOMENTS = {"adamw": 8, "adamw8bit": 2, "adafactor": 0, "prodigy": 16}  # bytes a number
_SMALL = 0.02  # of the whole: less is not worth a word
_COARSER, _LOW_RANK = 0.75, 16  # what is reckoned with as a lower resolution, and rank


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes on the device. weights: of the network, as it holds them. adapters: rows and their
    optimiser's state, by capacity. step: the most at once beside these: activations and gradients.
    waiting: not on the device but in main memory, of the network (offload.py).
    """

    weights: int
    adapters: int
    step: int
    waiting: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.adapters + self.step

    def __str__(self) -> str:
        waiting = f", while {amount(self.waiting)} of it wait in main memory"
        return (
            f"about {amount(self.total)} ({amount(self.weights)} for the model"
            f"{waiting if self.waiting else ''}, {amount(self.adapters)} for the adapter and its "
            f"optimiser, {amount(self.step)} for a step)"
        )


def amount(size: int) -> str:
    """Bytes as a user reads them."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def memory_need(
    denoiser: Denoiser, examples: Sequence[Example], config: TrainConfig, ranks: Sequence[int]
) -> MemoryNeed:
    """For the first steps: at these ranks, one a component in the file's order.

    examples: of the run; the largest counts. Raises whatever step_peak raises.
    """
    network, batch = denoiser.network, _largest(examples, config.batch_size)
    widths = _widths(denoiser, config)
    # when activations are gone, the optimiser holds gradients and one more copy
    update = 2 * _FP32 * _numbers(ranks, widths)
    looking = _looking(denoiser, config)
    return MemoryNeed(
        sum(t.nbytes for t in (*network.parameters(), *network.buffers())),
        _held(ranks, widths, config),
        max(step_peak(denoiser, batch, config, ranks) + looking, update),
    )


def savings(
    denoiser: Denoiser, examples: Sequence[Example], config: TrainConfig, ranks: Sequence[int]
) -> list[tuple[str, int]]:
    """(what would need less, bytes that it saves), the largest saving first.

    Counted are checkpointing and ranks; activations are taken to go with batch and area.
    """
    now = memory_need(denoiser, examples, config, ranks)
    widths = _widths(denoiser, config)
    activations = max(now.step - _FP32 * _numbers(ranks, widths), 0)
    found = {}
    if not config.gradient_checkpointing:
        less = memory_need(denoiser, examples, replace(config, gradient_checkpointing=True), ranks)
        found[CHECKPOINTING] = now.total - less.total
    elif denoiser.device.type != "cpu":
        waiting = [block for block in denoiser.blocks if waits(block, denoiser.device)]
        found[OFFLOAD] = gain(denoiser.blocks) - gain(waiting)
    if config.batch_size > 1:
        found["batch_size 1"] = int(activations * (1 - 1 / config.batch_size))
    found[f"images of {_COARSER:g} times the side"] = int(activations * (1 - _COARSER**2))
    lower = [min(rank, _LOW_RANK) for rank in ranks]
    found[f"a start from rank {_LOW_RANK}"] = now.adapters - _held(lower, widths, config)
    if config.optimizer == "adamw":
        smaller = replace(config, optimizer="adamw8bit")
        found["the optimizer adamw8bit"] = now.adapters - _held(ranks, widths, smaller)
    worth = [(words, saved) for words, saved in found.items() if saved > _SMALL * now.total]
    return sorted(worth, key=lambda pair: -pair[1])


def kept(denoiser: Denoiser, config: TrainConfig, ranks: Sequence[int]) -> int:
    """Bytes on disk of a run's adapter and state at these ranks, both in fp32."""
    numbers = _numbers(ranks, _widths(denoiser, config))
    average = _FP32 if config.ema_decay else 0
    rows = numbers * (2 * _FP32 + _MOMENTS[config.optimizer] + average)
    return rows + _effects(ranks, config)


def _held(ranks: Sequence[int], widths: Sequence[int], config: TrainConfig) -> int:
    """Bytes of rows, of their optimiser's state, of their average, and of what their effects are
    known by."""
    each = _FP32 + _MOMENTS[config.optimizer] + (_FP32 if config.ema_decay else 0)
    return int(_numbers(map(capacity_for, ranks), widths) * each) + _effects(ranks, config)


def _effects(ranks: Sequence[int], config: TrainConfig) -> int:
    """Bytes of effect.moments: two matrices, rank × rank, a component."""
    if not gathers_effects(config):
        return 0
    return sum(2 * _FP32 * rank * rank for rank in ranks)


def _looking(denoiser: Denoiser, config: TrainConfig) -> int:
    """Bytes of what the first gradient is taken with: its rows, and of A also the gradient; with a
    loss scaler their sum, too."""
    if not calibration_steps(config):
        return 0
    rows, of_a = probe_rows(config), 3 if config.dtype == "fp16" else 2
    return _FP32 * sum(
        min(rows, adapter.max_rank) * (of_a * adapter.in_features + adapter.out_features)
        for adapter in ordered_adapters(denoiser, config.targets, 1)
    )


def _numbers(ranks: Iterable[int], widths: Sequence[int]) -> int:
    return sum(rank * width for rank, width in zip(ranks, widths, strict=True))


def _widths(denoiser: Denoiser, config: TrainConfig) -> list[int]:
    """Inputs and outputs of each adapted layer together, in the file's order."""
    adapters = ordered_adapters(denoiser, config.targets, 1)
    return [adapter.in_features + adapter.out_features for adapter in adapters]


def _largest(examples: Sequence[Example], batch_size: int) -> Batch:
    """Of copies, as a run's batches are: a host's tensors may be closed to autograd."""
    largest = max(examples, key=lambda example: example.latent.numel())

    def repeated(tensor: Tensor) -> Tensor:
        return tensor.expand(batch_size, *tensor.shape[1:]).clone()

    return Batch(
        repeated(largest.latent),
        {name: repeated(tensor) for name, tensor in largest.conditioning.items()},
    )
