"""The training loop."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from ..config import TrainConfig
from ..diffusion.data import Batch
from ..diffusion.denoiser import Denoiser
from ..layers.half import half_factors
from ..layers.inject import attached
from ..optimizers import make_optimizer
from ..optimizers.rows import RowOptimizer
from .average import AdapterAverage
from .calibration import calibrate, calibration_steps
from .effects import by_effect, moment_average
from .forward import DTYPES, entropy_probe, forward, watched
from .gradients import GradientGuard, differentiated
from .level_weights import level_weights
from .parts import Parts
from .plan import finished_limit, planned
from .result import StepInfo, TrainingDiverged, TrainResult
from .run_state import RunState
from .schedule import rate_factor


class Training:
    """One run: built, perhaps taken up from a state, run, and asked for its adapter and state.

    denoiser is left as it was. batches: the batches of each optimiser step (data.batches), from
    the first step on. The same seed gives the same result, bit for bit, on a CPU, however often
    the run was stopped and taken up. ranks: component → the rank that it starts from
    (plan.map_starts); None: r_init for all. Raises LoRA2Error for settings that do not fit.

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
        self._denoiser = denoiser
        self._batches = batches
        self._parts = _parts(denoiser, config, ranks)
        self._method, self._optimizer = self._parts.method, self._parts.optimizer
        self._adapters = self._parts.adapters
        self.starts = self._method.first_ranks()
        self._given = ranks is not None
        self._rate_factor = rate_factor(config)
        self._limit = finished_limit(config, self._parts.components)
        self._level_weights = level_weights(config, denoiser.timesteps)
        names = [name for name, _ in self._parts.components]
        self._guard = GradientGuard(self._adapters, names)
        self._watching = ExitStack()  # what watches the network while it trains
        self._at_step = self._parts.drawn()
        self._seconds = 0.0  # of earlier stretches
        self._started = time.monotonic()

    @property
    def losses(self) -> list[float]:
        """The prediction loss of each step that was made."""
        return self._parts.losses

    @property
    def done(self) -> int:
        """Steps that were made."""
        return len(self.losses)

    def run(
        self,
        on_step: Callable[[StepInfo], None] | None = None,
        on_start: Callable[[], None] | None = None,
        on_trouble: Callable[[str], None] | None = None,
        on_pass: Callable[[int, int], None] | None = None,
    ) -> TrainResult:
        """Trains up to config.steps. on_step may raise to stop; the run can then be asked for its
        result and its state as of the last step that was made.

        on_start comes once, before the first step, and on_pass(done, all) for each of the steps'
        batches that are looked at before that; it may raise, too. on_trouble hears of what does not
        stop a run; the log does in its place. Raises TrainingDiverged if loss or gradient is not
        finite, and NoGradient for layers that learn nothing.
        """
        self._started = time.monotonic()
        with attached(self._adapters), self._watching:
            self._watch()
            if on_start is not None:
                on_start()
            if self.done == 0 and not self._parts.looked:
                self._calibrate(on_pass)
            for _ in range(self.done, self.config.steps):
                entropy = self._step(on_trouble)
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
        """The adapter as it is now; a finished one with no more than config.effect_share asks for
        (effects.by_effect).
        """
        names = [name for name, _ in self._parts.components]
        method, average = self._method, self._parts.average
        if average is None or self.done == 0:
            factors = method.factors()
        else:
            factors = method.factors_of(average.rows())
        found = TrainResult(
            dict(zip(names, factors, strict=True)),
            dict(zip(names, zip(method.nus(), method.ranks(), strict=True), strict=True)),
            list(self.losses),
            self.done,
            self.config,
            dict(self._parts.components),
        )
        if self._parts.moments is None:
            return found
        return by_effect(found, self._parts.moments, method, self._limit)

    def state(self) -> RunState:
        """Of the run after the last step that was made; what a step that broke off drew is undrawn.

        Where the optimiser itself broke off, some factors may have moved.
        """
        return self._parts.state(self._at_step, self._elapsed())

    def restore(self, state: RunState) -> None:
        """Goes on from a state; before the first step.

        Raises LoRA2Error if it is of other settings (run_state.check_config) or another network.
        """
        self._parts.restore(state)
        self._at_step = self._parts.drawn()
        self._seconds = state.facts["seconds"]
        for _ in range(self._parts.looked + self.done):
            next(self._batches)

    def _calibrate(self, on_pass: Callable[[int, int], None] | None) -> None:
        """Before the first step: other ranks and directions, and all that goes with them anew."""
        config, parts = self.config, self._parts
        if not (passes := calibration_steps(config)):
            return
        self._watching.close()
        calibrate(
            self._method, self._denoiser, self._batches, config, passes,
            _scale(parts.scaler), self._level_weights, self._given, on_pass,
        )  # fmt: skip
        self._parts = parts = _with_rows(parts, passes)
        self._optimizer = parts.optimizer
        self.starts = self._method.first_ranks()
        self._watch()

    def _watch(self) -> None:
        self._watching.enter_context(watched(self._denoiser, self.config, self._parts.probe))
        self._watching.enter_context(self._guard.attached())

    def _step(self, on_trouble: Callable[[str], None] | None) -> float | None:
        """One optimiser step; returns the mean entropy, or None."""
        config, step = self.config, self.done
        with differentiated(step + 1):
            loss, entropy, norm, reached = self._backward(next(self._batches))
        self._check_finite(loss, norm)
        if reached:
            self._guard.judge(reached, on_trouble)
        self._method.before_step()
        self._optimizer.set_rate(config.learning_rate * self._rate_factor(step))
        _update(self._optimizer, self._parts.scaler)
        self._method.after_step(self._optimizer, self._parts.generator, step, loss)
        if self._parts.average is not None:
            with torch.no_grad():
                self._method.set_scales(config.steps)
            self._parts.average.update(self._optimizer)
        self.losses.append(loss)
        self._at_step = self._parts.drawn()
        return entropy

    def _backward(self, batches: list[Batch]) -> tuple[float, float | None, float, list[float]]:
        """Gradients of a step's batches, gathered for the optimiser: (prediction loss, mean
        entropy, norm of the gradient, what the guard wants to see), which come from the device in
        one copy.
        """
        config, step, parts, found = self.config, self.done, self._parts, []
        with self._gathering():
            for batch in batches:
                self._method.set_scales(step)
                with half_factors(self._adapters, DTYPES[config.dtype]):
                    mse, entropy = forward(
                        self._denoiser, batch, config, parts.probe, parts.generator,
                        self._level_weights,
                    )  # fmt: skip
                    total = batch.weight * mse
                    if entropy is not None:
                        total = total + config.lambda_e / len(batches) * entropy
                    parts.scaler.scale(total).backward()
                found.append(torch.stack([batch.weight * mse.detach(), _detached(entropy, mse)]))
        penalty = self._method.penalty(step)
        if penalty is not None:
            parts.scaler.scale(penalty).backward()
        norm = _gather_gradients(self._optimizer, parts.scaler, config)
        sums = torch.stack(found).sum(0)
        numbers = [sums, norm.reshape(1)]
        if (reached := self._guard.look(step + 1 == config.steps)) is not None:
            numbers.append(reached)
        loss, entropy_sum, norm, *reached = torch.cat(numbers).tolist()
        entropy = None if parts.probe is None else entropy_sum / len(batches)
        return loss, entropy, norm, reached

    def _gathering(self) -> AbstractContextManager:
        moments, scaler = self._parts.moments, self._parts.scaler
        if moments is None:
            return nullcontext()
        return moments.gathering(self.done, _scale(scaler))

    def _check_finite(self, loss: float, norm: float) -> None:
        """Raises TrainingDiverged, before anything is moved."""
        step = self.done + 1
        if not math.isfinite(loss):
            raise TrainingDiverged(step, f"the loss became {loss}", self.result())
        if not math.isfinite(norm) and not self._parts.scaler.is_enabled():  # it skips such a step
            raise TrainingDiverged(step, f"the gradient became {norm}", self.result())

    def _info(self, entropy: float | None) -> StepInfo:
        ranks = tuple(self._method.ranks())
        size = sum(
            rank * (adapter.in_features + adapter.out_features)
            for rank, adapter in zip(ranks, self._adapters, strict=True)
        )
        return StepInfo(
            self.done, self.config.steps, self.losses[-1], entropy, ranks, size, self._elapsed(),
            self._parts.components, self._method.overhead,
            None if self._parts.moments is None else self._parts.moments.shares,
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


def _parts(denoiser: Denoiser, config: TrainConfig, ranks: Mapping[str, int] | None) -> Parts:
    """A run before its first step."""
    generator = torch.Generator().manual_seed(config.seed)
    method, components = planned(denoiser, config, ranks)
    method.start(generator)
    return Parts(
        config,
        components,
        method,
        make_optimizer(config, method.adapters, method.rho),
        torch.amp.GradScaler(denoiser.device.type, enabled=config.dtype == "fp16"),
        generator,
        AdapterAverage(method.adapters, config.ema_decay) if config.ema_decay > 0 else None,
        entropy_probe(denoiser, config),
        moment_average(config, method),
    )


def _with_rows(parts: Parts, looked: int) -> Parts:
    """The same run before its first step, of the rows that the method has now."""
    config, method = parts.config, parts.method
    return replace(
        parts,
        optimizer=make_optimizer(config, method.adapters, method.rho),
        average=parts.average and AdapterAverage(method.adapters, config.ema_decay),
        moments=moment_average(config, method),
        looked=looked,
    )


def _scale(scaler: torch.amp.GradScaler) -> float:
    return scaler.get_scale() if scaler.is_enabled() else 1.0


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
