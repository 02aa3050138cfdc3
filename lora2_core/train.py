"""The training loop."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import EntropyProbe, blocks_checkpointed
from .config import TrainConfig
from .data import Batch
from .denoiser import Denoiser
from .errors import LoRA2Error
from .inject import attached, create_adapters, cross_attention_layers, file_order
from .losses import prediction_loss
from .methods import METHODS
from .optimizer import RowAdamW

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class StepInfo:
    """What on_step is told after each optimiser step.

    step: steps done, from 1. loss: prediction loss of this step. entropy: mean cross-attention
    entropy in nats, or None. ranks: one a component, in the file's order. parameters: of a
    file of these ranks. seconds: since start. components: module name and weight shape of each,
    as the file names them; the same tuple every time.
    """

    step: int
    steps: int
    loss: float
    entropy: float | None
    ranks: tuple[int, ...]
    parameters: int
    seconds: float
    components: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def megabytes(self) -> float:
        """Size of the factors in half precision."""
        return 2 * self.parameters / 1e6

    @property
    def mean_rank(self) -> float:
        return sum(self.ranks) / len(self.ranks)


@dataclass(frozen=True)
class TrainResult:
    """A trained adapter.

    factors: module name → (down [D, n…], up [m, D…]), fp32 on the CPU, Λ folded into down.
    ranks: module name → (ν or None, D). losses: prediction loss of each step. steps: how many
    were run.
    """

    factors: dict[str, tuple[Tensor, Tensor]]
    ranks: dict[str, tuple[float | None, int]]
    losses: list[float]
    steps: int
    config: TrainConfig


class TrainingDiverged(LoRA2Error):
    """Loss or gradient became NaN or infinite. `result` holds the adapter of the last good step."""

    def __init__(self, step: int, what: str, result: TrainResult):
        super().__init__(
            f"{what} at step {step} of {result.config.steps}; lower the learning "
            f"rate ({result.config.learning_rate:g}) or train in bf16 or fp32 "
            f"(now {result.config.dtype})"
        )
        self.step = step
        self.result = result


def train(
    denoiser: Denoiser,
    batches: Iterator[list[Batch]],
    config: TrainConfig,
    on_step: Callable[[StepInfo], None] | None = None,
) -> TrainResult:
    """Trains an adapter for `denoiser`, which is left as it was.

    batches: the batches of each optimiser step (data.batches). on_step may raise to stop: the
    denoiser is restored all the same. The same seed gives the same result, bit for bit, on a CPU.
    Raises TrainingDiverged if loss or gradient is not finite, LoRA2Error for settings that do
    not fit.
    """
    generator = torch.Generator().manual_seed(config.seed)
    kind = METHODS[config.method]
    highest = kind.highest_rank(config)

    def place(name: str) -> list:
        return file_order(denoiser.module_name(name))

    adapters = create_adapters(denoiser.network, config.targets, highest, denoiser.device)
    adapters.sort(key=lambda adapter: place(adapter.name))
    method = kind(config, adapters)
    method.start(generator)
    optimizer = RowAdamW(
        adapters,
        method.rho,
        learning_rate=config.learning_rate,
        rho_learning_rate=config.rank_rate / config.steps,
        weight_decay=config.weight_decay,
    )
    scaler = torch.amp.GradScaler(denoiser.device.type, enabled=config.dtype == "fp16")
    probe = None
    if method.uses_entropy and config.lambda_e > 0:
        found = cross_attention_layers(denoiser.network)
        layers = [found[name] for name in sorted(found, key=place)]
        probe = EntropyProbe(layers, config.entropy_queries, config.seed) if layers else None
    losses: list[float] = []
    components = tuple(
        (denoiser.module_name(adapter.name), tuple(adapter.layer.weight.shape))
        for adapter in adapters
    )
    started = time.monotonic()

    def result() -> TrainResult:
        return _result(denoiser, adapters, method, losses, config)

    with ExitStack() as stack:
        stack.enter_context(attached(adapters))
        if probe is not None:
            stack.enter_context(probe.attached())
        stack.enter_context(
            blocks_checkpointed(denoiser.blocks, probe, config.gradient_checkpointing)
        )
        for step in range(config.steps):
            parts = []
            step_batches = next(batches)
            for batch in step_batches:
                method.set_scales(step)
                mse, entropy = _forward(denoiser, batch, config, probe, generator)
                total = batch.weight * mse
                if entropy is not None:
                    total = total + config.lambda_e / len(step_batches) * entropy
                scaler.scale(total).backward()
                parts.append(torch.stack([batch.weight * mse.detach(), _detached(entropy, mse)]))
            penalty = method.penalty(step)
            if penalty is not None:
                scaler.scale(penalty).backward()
            norm = _gather_gradients(optimizer, scaler, config)
            parts = torch.stack(parts).sum(0)
            loss, entropy_sum, norm = torch.cat([parts, norm.reshape(1)]).tolist()
            if not math.isfinite(loss):
                raise TrainingDiverged(step + 1, f"the loss became {loss}", result())
            if not math.isfinite(norm) and not scaler.is_enabled():  # the scaler skips such a step
                raise TrainingDiverged(step + 1, f"the gradient became {norm}", result())
            method.before_step()
            _update(optimizer, scaler)
            method.after_step(optimizer, generator, step, loss)
            losses.append(loss)
            if on_step is not None:
                mean_entropy = entropy_sum / len(step_batches) if probe is not None else None
                seconds = time.monotonic() - started
                ranks = tuple(method.ranks())
                size = sum(
                    rank * (adapter.in_features + adapter.out_features)
                    for rank, adapter in zip(ranks, adapters, strict=True)
                )
                on_step(
                    StepInfo(
                        step + 1, config.steps, loss, mean_entropy, ranks, size, seconds, components
                    )
                )  # fmt: skip
        return result()


def _forward(
    denoiser: Denoiser,
    batch: Batch,
    config: TrainConfig,
    probe: EntropyProbe | None,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor | None]:
    """(prediction loss, mean entropy or None) of one batch at random noise levels."""
    latents = batch.latents.to(denoiser.device)
    noise = torch.randn(batch.latents.shape, generator=generator).to(latents)
    t = torch.randint(denoiser.timesteps, (len(latents),), generator=generator).to(latents.device)
    noisy, target = denoiser.corrupt(latents, noise, t)
    if probe is not None:
        probe.begin()
    conditioning = {name: c.to(denoiser.device) for name, c in batch.conditioning.items()}
    with _autocast(denoiser.device, config.dtype):
        prediction = denoiser.predict(noisy, t, conditioning)
    return prediction_loss(prediction, target), None if probe is None else probe.mean()


def _gather_gradients(
    optimizer: RowAdamW, scaler: torch.amp.GradScaler, config: TrainConfig
) -> Tensor:
    """Unscales and clips the gradients where the optimiser looks for them; returns their norm."""
    optimizer.share_gradients()
    scaler.unscale_(optimizer.adamw)
    return optimizer.clip(config.max_grad_norm)


def _update(optimizer: RowAdamW, scaler: torch.amp.GradScaler) -> None:
    scale = scaler.get_scale() if scaler.is_enabled() else 0.0
    scaler.step(optimizer.adamw)
    scaler.update()
    if not scaler.is_enabled() or scaler.get_scale() >= scale:
        optimizer.applied()
    optimizer.zero_grad()


def _autocast(device: torch.device, dtype: str):
    if dtype == "fp32":
        return nullcontext()
    return torch.autocast(device.type, _DTYPES[dtype])


def _detached(entropy: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if entropy is None else entropy.detach()


def _result(denoiser, adapters, method, losses, config) -> TrainResult:
    names = [denoiser.module_name(adapter.name) for adapter in adapters]
    return TrainResult(
        dict(zip(names, method.factors(), strict=True)),
        dict(zip(names, zip(method.nus(), method.ranks(), strict=True), strict=True)),
        list(losses),
        len(losses),
        config,
    )
