"""All of a run that changes from step to step, and how it is kept and taken up again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from ..config import TrainConfig
from ..effect.moments import MomentAverage
from ..errors import LoRA2Error
from ..layers.adapter import Adapter
from ..methods.method import Method
from ..optimizers.rows import RowOptimizer
from .average import AdapterAverage
from .entropy import EntropyProbe
from .plan import Components
from .run_state import RunState, check_config

Drawn = tuple[Tensor, int]  # how far randomness is used up: generator, passes of the probe


@dataclass
class Parts:
    """losses: of each step that was made. average, probe, moments: None without one. looked: steps'
    batches that were taken before the first step (calibration)."""

    config: TrainConfig
    components: Components
    method: Method
    optimizer: RowOptimizer
    scaler: torch.amp.GradScaler
    generator: torch.Generator
    average: AdapterAverage | None
    probe: EntropyProbe | None
    moments: MomentAverage | None = None
    looked: int = 0
    losses: list[float] = field(default_factory=list)

    @property
    def adapters(self) -> list[Adapter]:
        """In the file's order."""
        return self.method.adapters

    def drawn(self) -> Drawn:
        """How far randomness has been used up."""
        passes = 0 if self.probe is None else self.probe.passes
        return self.generator.get_state(), passes

    def state(self, drawn: Drawn, seconds: float) -> RunState:
        """As a run of so many seconds that has drawn no more than `drawn`."""
        generator, passes = drawn
        tensors = {
            "generator": generator,
            "losses": torch.tensor(self.losses, dtype=torch.float64),
        }
        facts = {
            "step": len(self.losses),
            "seconds": seconds,
            "config": asdict(self.config),
            "components": self._listed(),
            "passes": passes,
            "scaler": self.scaler.state_dict(),
            "method": self.method.state(),
            "starts": self.method.starts,
            "looked": self.looked,
        }
        rows, facts["adapters"] = self._rows()
        tensors |= rows
        if self.method.rho is not None:
            moments = _below("adam", self.optimizer.rho_state())
            tensors |= _below("rho", {"value": self.method.rho.detach(), **moments})
        own, facts["optimizer"] = self.optimizer.extra_state()
        tensors |= _below("optimizer", own)
        if self.average is not None:
            tensors |= _below("ema", self.average.tensors())
            facts["ema"] = self.average.facts()
        if self.moments is not None:
            tensors |= _below("moments", self.moments.tensors())
            facts["moments"] = self.moments.steps
        # each with memory of its own, as the file wants it; and a copy, for the run goes on
        return RunState({name: part.cpu().clone() for name, part in tensors.items()}, facts)

    def restore(self, state: RunState) -> None:
        """Goes on from a state; raises LoRA2Error, saying what differs, if it is of another run."""
        self._check(state)
        facts, tensors = state.facts, state.tensors
        self._restore_rows(tensors, facts["adapters"])
        self.optimizer.restore_extra(_under("optimizer", tensors), facts.get("optimizer", {}))
        if self.method.rho is not None:
            with torch.no_grad():
                self.method.rho.copy_(tensors["rho.value"])
            if moments := _under("rho.adam", tensors):
                self.optimizer.restore_rho(moments)
        self.method.restore(facts["method"])
        self.looked = facts.get("looked", 0)
        if self.average is not None:
            self.average.restore(_under("ema", tensors), facts["ema"])
        if self.moments is not None and "moments" in facts:
            self.moments.restore(_under("moments", tensors), facts["moments"])
        self.generator.set_state(tensors["generator"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(facts["scaler"])
        if self.probe is not None:
            self.probe.passes = facts["passes"]
        self.losses[:] = tensors["losses"].tolist()

    def _listed(self) -> list:
        """The components, as JSON has them."""
        return [[name, list(shape)] for name, shape in self.components]

    def _check(self, state: RunState) -> None:
        check_config(state, self.config)
        found = state.facts["components"]
        if found != self._listed():
            raise LoRA2Error(
                f"the run was trained on another network ({len(found)} layers, "
                f"here {len(self.components)}); load the model that it was started with"
            )
        if state.facts.get("starts", self.method.starts) != self.method.starts:
            raise LoRA2Error(
                "the run was started from other ranks; give the rank map that it was begun with, "
                "or start a new run"
            )

    def _rows(self) -> tuple[dict[str, Tensor], list[list[int]]]:
        """Tensors of all adapters, and (rank, capacity, idle steps) of each."""
        tensors, numbers = {}, []
        for index, adapter in enumerate(self.adapters):
            ages = torch.tensor(self.optimizer.ages(index), dtype=torch.int32)
            tensors |= _below(str(index), adapter.tensors() | {"ages": ages})
            numbers.append([adapter.rank, adapter.capacity, adapter.idle_steps])
        return tensors, numbers

    def _restore_rows(self, tensors: Mapping[str, Tensor], numbers: list[list[int]]) -> None:
        everything = list(range(len(self.adapters)))
        self.optimizer.before_change(everything)
        for index, (adapter, own) in enumerate(zip(self.adapters, numbers, strict=True)):
            rows = _under(str(index), tensors)
            adapter.restore(rows, rows.pop("ages").tolist(), *own)
        self.optimizer.follow(everything)


def _below(stem: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{stem}.{name}": part for name, part in tensors.items()}


def _under(stem: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names _below has begun with `stem`, without it."""
    stem += "."
    return {k.removeprefix(stem): v for k, v in tensors.items() if k.startswith(stem)}
