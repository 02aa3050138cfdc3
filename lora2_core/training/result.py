"""What a run tells after each step, what it ends in, and how it fails."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from ..config import TrainConfig
from ..errors import LoRA2Error


@dataclass(frozen=True)
class StepInfo:
    """What on_step is told after each optimiser step.

    step: steps done, from 1. loss: prediction loss of this step. entropy: mean cross-attention
    entropy in nats, or None. ranks: one a component, in the file's order. parameters: of a
    file of these ranks. seconds: since start. components: module name and weight shape of each,
    as the file names them; the same tuple every time. overhead: bytes of the file beside its rows.
    effects: what each component has of the effect on the loss so far, 0 if nothing is known; to be
    called in on_step and not later, and to be called seldom, for it waits for the device. None
    where it is not gathered.
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
    effects: Callable[[], list[float]] | None = field(default=None, compare=False)

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
    ranks: module name → (ν or None, D); D is 0 for a component that is not among the factors. ν is
    None where it no longer tells of D. losses: prediction loss of each step. steps: how many were
    run. shapes: module name → weight shape of every component. effects: module name → those of its
    directions (effect.measure), falling; {} where they were not measured.
    """

    factors: dict[str, tuple[Tensor, Tensor]]
    ranks: dict[str, tuple[float | None, int]]
    losses: list[float]
    steps: int
    config: TrainConfig
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    effects: dict[str, tuple[float, ...]] = field(default_factory=dict)


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
