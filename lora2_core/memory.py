"""What a run needs of memory, and what would make it less."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from .adapter import capacity_for
from .config import PRESETS, TrainConfig
from .data import Batch, Example
from .denoiser import Denoiser
from .inject import create_adapters, file_order
from .memory_trace import step_peak

CHECKPOINTING = "gradient_checkpointing"

_FP32 = 4  # bytes
_MOMENTS = {"adamw": 8.0, "adamw8bit": 2.0, "adafactor": 0.0, "prodigy": 16.0}  # bytes a number
_SMALL = 0.02  # of the whole: less is not worth a word
_COARSER = 0.75  # side of the latents that a lower resolution is reckoned with


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes. weights: of the network, as it holds them. adapters: rows and their optimiser's state,
    by capacity. step: the most at once beside these: activations and gradients.
    """

    weights: int
    adapters: int
    step: int

    @property
    def total(self) -> int:
        return self.weights + self.adapters + self.step

    def __str__(self) -> str:
        return (
            f"about {amount(self.total)} ({amount(self.weights)} for the model, "
            f"{amount(self.adapters)} for the adapter and its optimiser, {amount(self.step)} for a "
            "step)"
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
    return _need(denoiser, _largest(examples, config.batch_size), config, ranks)


def savings(
    denoiser: Denoiser, examples: Sequence[Example], config: TrainConfig, ranks: Sequence[int]
) -> list[tuple[str, int]]:
    """(what would need less, bytes that it saves), the largest saving first."""
    now = memory_need(denoiser, examples, config, ranks)
    batch = _largest(examples, config.batch_size)
    found = [
        (words, now.total - _need(denoiser, *changed).total)
        for words, *changed in _alternatives(batch, config, list(ranks))
    ]
    worth = [(words, saved) for words, saved in found if saved > _SMALL * now.total]
    return sorted(worth, key=lambda pair: -pair[1])


def _alternatives(
    batch: Batch, config: TrainConfig, ranks: list[int]
) -> Iterator[tuple[str, Batch, TrainConfig, list[int]]]:
    if not config.gradient_checkpointing:
        yield CHECKPOINTING, batch, replace(config, gradient_checkpointing=True), ranks
    if len(batch.latents) > 1:
        yield "batch_size 1", _first(batch), config, ranks
    small = PRESETS["small"]["r_init"]
    if max(ranks) > small:
        yield f"a lower rank, such as {small}", batch, config, [min(r, small) for r in ranks]
    sides = [int(side * _COARSER) // 8 * 8 for side in batch.latents.shape[2:]]
    if min(sides) >= 8:
        coarser = replace(batch, latents=batch.latents[:, :, : sides[0], : sides[1]])
        yield f"images of {_COARSER:g} times the side", coarser, config, ranks
    if config.optimizer == "adamw":
        yield "the optimizer adamw8bit", batch, replace(config, optimizer="adamw8bit"), ranks


def _need(
    denoiser: Denoiser, batch: Batch, config: TrainConfig, ranks: Sequence[int]
) -> MemoryNeed:
    network = denoiser.network
    stored = {t.data_ptr(): t.nbytes for t in (*network.parameters(), *network.buffers())}
    adapters = create_adapters(network, config.targets, 1, denoiser.device)
    adapters.sort(key=lambda adapter: file_order(denoiser.module_name(adapter.name)))
    widths = [adapter.in_features + adapter.out_features for adapter in adapters]
    rows = sum(capacity_for(r) * width for r, width in zip(ranks, widths, strict=True))
    active = sum(rank * width for rank, width in zip(ranks, widths, strict=True))
    return MemoryNeed(
        sum(stored.values()),
        int(rows * (_FP32 + _MOMENTS[config.optimizer] + (_FP32 if config.ema_decay else 0))),
        # the optimiser, when activations are gone, holds gradients and one more copy
        max(step_peak(denoiser, batch, config, ranks), 2 * _FP32 * active),
    )


def _largest(examples: Sequence[Example], batch_size: int) -> Batch:
    largest = max(examples, key=lambda example: example.latent.numel())
    return Batch(
        largest.latent.expand(batch_size, *largest.latent.shape[1:]),
        {
            name: tensor.expand(batch_size, *tensor.shape[1:])
            for name, tensor in largest.conditioning.items()
        },
    )


def _first(batch: Batch) -> Batch:
    conditioning = {name: tensor[:1] for name, tensor in batch.conditioning.items()}
    return Batch(batch.latents[:1], conditioning, batch.weight)
