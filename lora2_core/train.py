"""The training loop."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from . import rank_map
from .config import MAX_RANK, TrainConfig
from .data import Batch
from .denoiser import Denoiser
from .ema import AdapterAverage
from .errors import LoRA2Error
from .file_metadata import kohya_name, training_metadata
from .file_size import overhead
from .forward import DTYPES, entropy_probe, forward, watched
from .half import half_factors
from .inject import attached, ordered_adapters
from .methods import METHODS
from .methods.method import Method
from .optimizer import RowOptimizer
from .optimizers import make_optimizer
from .run_state import RunState, check_config
from .schedule import rate_factor
from .timesteps import level_weights

_WORDS = 2000  # bytes of trigger words, title, resolution and dates


@dataclass(frozen=True)
class StepInfo:
    """What on_step is told after each optimiser step.

    step: steps done, from 1. loss: prediction loss of this step. entropy: mean cross-attention
    entropy in nats, or None. ranks: one a component, in the file's order. parameters: of a
    file of these ranks. seconds: since start. components: module name and weight shape of each,
    as the file names them; the same tuple every time. overhead: bytes of the file beside its rows.
    """

    step: int
    steps: int
    loss: float
    entropy: float | None
    ranks: tuple[int, ...]
    parameters: int
    seconds: float
    components: tuple[tuple[str, tuple[int, ...]], ...] = ()
    overhead: int = 0

    @property
    def megabytes(self) -> float:
        """Size of the file in half precision, as it would be now."""
        return (2 * self.parameters + self.overhead) / 1e6

    @property
    def mean_rank(self) -> float:
        return sum(self.ranks) / len(self.ranks)


@dataclass(frozen=True)
class TrainResult:
    """A trained adapter.

    factors: module name → (down [D, n…], up [m, D…]), fp32 on the CPU, Λ folded into down; with
    ema_decay those of the moving average.
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


class Training:
    """One run: built, perhaps taken up from a state, run, and asked for its adapter and state.

    denoiser is left as it was. batches: the batches of each optimiser step (data.batches), from
    the first step on. The same seed gives the same result, bit for bit, on a CPU, however often
    the run was stopped and taken up. ranks: component → the rank that it starts from
    (rank_map.starts); None: r_init for all. Raises LoRA2Error for settings that do not fit.

    starts: rank that each component starts from, in the file's order.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        batches: Iterator[list[Batch]],
        config: TrainConfig,
        ranks: Mapping[str, int] | None = None,
    ):
        self.config = config
        self.losses: list[float] = []
        self._denoiser = denoiser
        self._batches = batches
        self._generator = torch.Generator().manual_seed(config.seed)
        self._method, self._components = _planned(denoiser, config, ranks)
        self._adapters = self._method.adapters
        self._overhead = self._method.overhead
        self.starts = self._method.first_ranks()
        self._method.start(self._generator)
        self._optimizer = make_optimizer(config, self._adapters, self._method.rho)
        self._average = None
        if config.ema_decay > 0:
            self._average = AdapterAverage(self._adapters, config.ema_decay)
        self._rate_factor = rate_factor(config)
        self._level_weights = level_weights(config, denoiser.timesteps)
        enabled = config.dtype == "fp16"
        self._scaler = torch.amp.GradScaler(denoiser.device.type, enabled=enabled)
        self._probe = entropy_probe(denoiser, config)
        self._watching = ExitStack()  # what watches the network while it trains
        self._at_step = self._drawn()
        self._seconds = 0.0  # of earlier stretches
        self._started = time.monotonic()

    @property
    def done(self) -> int:
        """Steps that were made."""
        return len(self.losses)

    def run(
        self,
        on_step: Callable[[StepInfo], None] | None = None,
        on_start: Callable[[], None] | None = None,
    ) -> TrainResult:
        """Trains up to config.steps. on_step may raise to stop; the run can then be asked for its
        result and its state as of the last step that was made.

        on_start comes once, before the first step. Raises TrainingDiverged if loss or gradient is
        not finite.
        """
        self._started = time.monotonic()
        with attached(self._adapters), self._watching:
            self._watch()
            if on_start is not None:
                on_start()
            for _ in range(self.done, self.config.steps):
                entropy = self._step()
                if on_step is not None:
                    on_step(self._info(entropy))
        return self.result()

    @contextmanager
    def sampled(self) -> Iterator[None]:
        """Within the block, in a callback of `run`, the network predicts with the adapter as it is
        now, unwatched and without gradients; what is drawn from torch's random streams is put back
        after it.
        """
        # a seed for everything, as samplers like to set it, reaches every GPU
        gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        self._watching.close()
        try:
            with torch.random.fork_rng(gpus), torch.no_grad():
                self._method.set_scales(self.done)
                yield
        finally:
            self._watch()

    def result(self) -> TrainResult:
        """The adapter as it is now."""
        names = [name for name, _ in self._components]
        method = self._method
        if self._average is None or self.done == 0:
            factors = method.factors()
        else:
            factors = method.factors_of(self._average.rows())
        return TrainResult(
            dict(zip(names, factors, strict=True)),
            dict(zip(names, zip(method.nus(), method.ranks(), strict=True), strict=True)),
            list(self.losses),
            self.done,
            self.config,
        )

    def state(self) -> RunState:
        """Of the run after the last step that was made; what a step that broke off drew is undrawn.

        Where the optimiser itself broke off, some factors may have moved.
        """
        generator, passes = self._at_step
        tensors = {
            "generator": generator,
            "losses": torch.tensor(self.losses, dtype=torch.float64),
        }
        numbers = []
        for index, adapter in enumerate(self._adapters):
            ages = torch.tensor(self._optimizer.ages(index), dtype=torch.int32)
            parts = adapter.tensors() | {"ages": ages}
            tensors |= {f"{index}.{name}": part.cpu() for name, part in parts.items()}
            numbers.append([adapter.rank, adapter.capacity, adapter.idle_steps])
        if self._method.rho is not None:
            moments = {f"adam.{k}": v for k, v in self._optimizer.rho_state().items()}
            own = {"value": self._method.rho.detach(), **moments}
            tensors |= {f"rho.{name}": part.cpu() for name, part in own.items()}
        facts = {
            "step": self.done,
            "seconds": self._elapsed(),
            "config": asdict(self.config),
            "components": [[name, list(shape)] for name, shape in self._components],
            "adapters": numbers,
            "passes": passes,
            "scaler": self._scaler.state_dict(),
            "method": self._method.state(),
            "starts": self._method.starts,
        }
        parts, facts["optimizer"] = self._optimizer.extra_state()
        tensors |= {f"optimizer.{name}": part.cpu() for name, part in parts.items()}
        if self._average is not None:
            tensors |= {f"ema.{k}": part.cpu() for k, part in self._average.tensors().items()}
            facts["ema"] = self._average.facts()
        # each with memory of its own, as the file wants it; and a copy, for the run goes on
        return RunState({name: tensor.clone() for name, tensor in tensors.items()}, facts)

    def restore(self, state: RunState) -> None:
        """Goes on from a state; before the first step.

        Raises LoRA2Error if it is of other settings (run_state.check_config) or another network.
        """
        check_config(state, self.config)
        facts, tensors = state.facts, state.tensors
        components = [[name, list(shape)] for name, shape in self._components]
        if facts["components"] != components:
            raise LoRA2Error(
                f"the run was trained on another network ({len(facts['components'])} layers, "
                f"here {len(components)}); load the model that it was started with"
            )
        if facts.get("starts", self._method.starts) != self._method.starts:
            raise LoRA2Error(
                "the run was started from other ranks; give the rank map that it was begun with, "
                "or start a new run"
            )
        everything = list(range(len(self._adapters)))
        self._optimizer.before_change(everything)
        for index, (adapter, numbers) in enumerate(
            zip(self._adapters, facts["adapters"], strict=True)
        ):
            stem = f"{index}."
            own = {k.removeprefix(stem): v for k, v in tensors.items() if k.startswith(stem)}
            adapter.restore(own, own.pop("ages").tolist(), *numbers)
        self._optimizer.follow(everything)
        self._optimizer.restore_extra(_under("optimizer.", tensors), facts.get("optimizer", {}))
        if self._method.rho is not None:
            with torch.no_grad():
                self._method.rho.copy_(tensors["rho.value"])
            stem = "rho.adam."
            moments = {k.removeprefix(stem): v for k, v in tensors.items() if k.startswith(stem)}
            if moments:
                self._optimizer.restore_rho(moments)
        self._method.restore(facts["method"])
        if self._average is not None:
            self._average.restore(_under("ema.", tensors), facts["ema"])
        self._generator.set_state(tensors["generator"])
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(facts["scaler"])
        if self._probe is not None:
            self._probe.passes = facts["passes"]
        self._at_step = self._drawn()
        self.losses = tensors["losses"].tolist()
        self._seconds = facts["seconds"]
        for _ in range(self.done):
            next(self._batches)

    def _watch(self) -> None:
        self._watching.enter_context(watched(self._denoiser, self.config, self._probe))

    def _drawn(self) -> tuple[Tensor, int]:
        """How far randomness has been used up: generator, and passes of the entropy probe."""
        passes = 0 if self._probe is None else self._probe.passes
        return self._generator.get_state(), passes

    def _step(self) -> float | None:
        """One optimiser step; returns the mean entropy, or None."""
        config, method, optimizer, scaler = self.config, self._method, self._optimizer, self._scaler
        step, parts = self.done, []
        step_batches = next(self._batches)
        for batch in step_batches:
            method.set_scales(step)
            with half_factors(self._adapters, DTYPES[config.dtype]):
                mse, entropy = forward(
                    self._denoiser, batch, config, self._probe, self._generator, self._level_weights
                )
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
            raise TrainingDiverged(step + 1, f"the loss became {loss}", self.result())
        if not math.isfinite(norm) and not scaler.is_enabled():  # the scaler skips such a step
            raise TrainingDiverged(step + 1, f"the gradient became {norm}", self.result())
        method.before_step()
        optimizer.set_rate(config.learning_rate * self._rate_factor(step))
        _update(optimizer, scaler)
        method.after_step(optimizer, self._generator, step, loss)
        if self._average is not None:
            with torch.no_grad():
                method.set_scales(config.steps)
            self._average.update(optimizer)
        self.losses.append(loss)
        self._at_step = self._drawn()
        return None if self._probe is None else entropy_sum / len(step_batches)

    def _info(self, entropy: float | None) -> StepInfo:
        ranks = tuple(self._method.ranks())
        size = sum(
            rank * (adapter.in_features + adapter.out_features)
            for rank, adapter in zip(ranks, self._adapters, strict=True)
        )
        return StepInfo(
            self.done, self.config.steps, self.losses[-1], entropy, ranks, size, self._elapsed(),
            self._components, self._overhead,
        )  # fmt: skip

    def _elapsed(self) -> float:
        return self._seconds + time.monotonic() - self._started


def train(
    denoiser: Denoiser,
    batches: Iterator[list[Batch]],
    config: TrainConfig,
    on_step: Callable[[StepInfo], None] | None = None,
    ranks: Mapping[str, int] | None = None,
) -> TrainResult:
    """A Training from its first step to its last."""
    return Training(denoiser, batches, config, ranks).run(on_step)


def starting_ranks(
    denoiser: Denoiser, config: TrainConfig, ranks: Mapping[str, int] | None = None
) -> list[int]:
    """Rank that each component of a Training would start from; raises what that raises."""
    method, _ = _planned(denoiser, config, ranks)
    return method.first_ranks()


def _planned(
    denoiser: Denoiser, config: TrainConfig, ranks: Mapping[str, int] | None
) -> tuple[Method, tuple[tuple[str, tuple[int, ...]], ...]]:
    """The method on adapters that have no rows yet, and module name and weight shape of each."""
    kind = METHODS[config.method]
    adapters = ordered_adapters(
        denoiser, config.targets, kind.highest_rank(config), config.optimizer == "adamw"
    )
    components = tuple(
        (denoiser.module_name(adapter.name), tuple(adapter.layer.weight.shape))
        for adapter in adapters
    )
    starts = None if ranks is None else rank_map.starts(ranks, components, config.r_init)
    return kind(config, adapters, starts, _overhead(components, config)), components


def _overhead(components: Sequence[tuple[str, tuple[int, ...]]], config: TrainConfig) -> int:
    """Bytes of the file beside its rows, with room for a few words about it."""
    ranks = {name: (0.123456789, MAX_RANK) for name, _ in components}
    # a date of its own: the same settings must count the same bytes whenever the run goes on
    known = training_metadata(
        method=config.method, settings=asdict(config), ranks=ranks, finished_at=0.0
    )
    highest = {kohya_name(name): (shape, MAX_RANK) for name, shape in components}
    return overhead(highest, known) + _WORDS


def _under(stem: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin with `stem`, without it."""
    return {k.removeprefix(stem): v for k, v in tensors.items() if k.startswith(stem)}


def _gather_gradients(
    optimizer: RowOptimizer, scaler: torch.amp.GradScaler, config: TrainConfig
) -> Tensor:
    """Unscales and clips the gradients where the optimiser looks for them; returns their norm."""
    optimizer.share_gradients()
    scaler.unscale_(optimizer.stepped)
    return optimizer.clip(config.max_grad_norm)


def _update(optimizer: RowOptimizer, scaler: torch.amp.GradScaler) -> None:
    scale = scaler.get_scale() if scaler.is_enabled() else 0.0
    scaler.step(optimizer.stepped)
    scaler.update()
    if not scaler.is_enabled() or scaler.get_scale() >= scale:
        optimizer.applied()
    optimizer.zero_grad()


def _detached(entropy: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if entropy is None else entropy.detach()
