"""Learning rates of all, and other choices than the paper's, on one subject; evidence is kept."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lora2_core.config import TrainConfig
from lora2_core.diffusion.data import batches
from lora2_core.drawn_world.subjects import Subject
from lora2_core.errors import LoRA2Error
from lora2_core.training.loop import train
from lora2_core.training.result import TrainingDiverged

from . import cutting, measure, store
from .contestants import CONTESTANTS, PAPER, Contestant
from .lesson import Lesson, denoiser
from .workers import each

RATES = (3e-4, 1e-3, 3e-3)  # the grid goes on while its best is at an edge
LIMITS = (1e-5, 0.3)
SEEDS = (0, 1)
AXES: dict[str, tuple] = {  # from the paper's choices on, each at what the ones before it chose
    "init": ("printed", "fan_in"),
    "importance": ("printed", "unit_energy"),
    "rank_hold": (0.0, 0.1, 0.3),
    "lambda_r": (1e-5, 1e-4, 1e-3),
    "rank_rate": (3.0, 10.0, 30.0),
    "r_init": (4, 16, 32),
}
_SAME_SCALE = {  # (init, importance) → who was tuned at that scale of the update
    ("printed", "printed"): "paper",
    ("fan_in", "printed"): "paper_fan_in",
    ("printed", "unit_energy"): "paper_unit",
    ("fan_in", "unit_energy"): "nu_term",
}
_CLOSE = 0.01  # of the base's loss: within it the smaller file is the better one
TUNED = "tuned"


@dataclass(frozen=True)
class Choices:
    """rates: contestant → learning rate. settings: of `tuned`."""

    rates: Mapping[str, float]
    settings: Mapping[str, object]

    def config(self, contestant: Contestant, steps: int, seed: int) -> TrainConfig:
        """Raises LoRA2Error for a contestant that was not tuned."""
        if contestant.name == TUNED:
            if not self.settings:
                raise LoRA2Error(f"{TUNED} was not tuned; run `tune` first")
            contestant = Contestant(TUNED, {**PAPER, **self.settings}, TUNED)
        if contestant.rate_of not in self.rates:
            raise LoRA2Error(f"{contestant.rate_of} has no learning rate; run `tune` first")
        return contestant.config(self.rates[contestant.rate_of], steps, seed)


def load(results: Path) -> Choices:
    """What `tune` chose; raises LoRA2Error if it was for other weights or did not finish any."""
    record = store.read(results / "tuning.json")
    if record is None or record["stamp"]["weights"] != store.weights_stamp():
        raise LoRA2Error(f"nothing in {results} was tuned on these weights; run `tune` first")
    return Choices(record["rates"], record["settings"])


def search(loss_of: Callable[[float], float], grid: Sequence[float] = RATES) -> float:
    """The rate of the lowest loss, with a worse one on either side or at the limits.

    loss_of: infinite where training diverged. Steps beyond the grid are by √10.
    """
    found = {rate: loss_of(rate) for rate in grid}
    while True:
        best = min(found, key=found.get)
        if best == min(found):
            following = best / math.sqrt(10)
        elif best == max(found):
            following = best * math.sqrt(10)
        else:
            return best
        following = float(f"{following:.2g}")
        if not LIMITS[0] <= following <= LIMITS[1]:
            return best
        found[following] = loss_of(following)


def preferred(tried: Mapping[object, Mapping[str, float]], first: object) -> object:
    """The value of least fidelity loss; among those within _CLOSE of it the smallest file, and
    `first`, the default, if it is as small.

    tried: value → {"subject": loss relative to the base, "parameters"}.
    """
    least = min(found["subject"] for found in tried.values())
    close = [value for value, found in tried.items() if found["subject"] <= least + _CLOSE]
    return min(close, key=lambda value: (tried[value]["parameters"], value != first))


def tune(
    results: Path,
    subject: Subject,
    names: Sequence[str],
    steps: int,
    jobs: int,
    deadline: float,
) -> None:
    """Writes tuning.json: stamp, rates, settings, and the evidence for both."""
    file = results / "tuning.json"
    stamp = {
        "weights": store.weights_stamp(),
        "look": store.look_stamp(subject),
        "steps": steps,
        "seeds": list(SEEDS),
    }
    record = store.read(file, stamp) or {
        "stamp": stamp, "subject": subject.name, "rates": {}, "settings": {}, "evidence": {},
    }  # fmt: skip
    owners = dict.fromkeys(CONTESTANTS[n].rate_of for n in names if CONTESTANTS[n].trained)
    tasks = [
        (name, subject, steps, record["evidence"].get(name, {}), deadline)
        for name in owners
        if name not in record["rates"]
    ]
    for name, rate, evidence in each(_rate_of, tasks, jobs):
        record["evidence"][name] = evidence
        if rate is not None:
            record["rates"][name] = rate
        store.write(file, record)
        print(f"{name}: {rate or 'not finished'}", flush=True)
    if TUNED in names and "paper" in record["rates"] and not record["settings"]:
        _tune_settings(record, file, subject, steps, jobs, deadline)


class _OutOfTime(Exception):
    pass


def _rate_of(
    name: str, subject: Subject, steps: int, evidence: dict, deadline: float
) -> tuple[str, float | None, dict]:
    """(name, its rate or None if time ran out, everything tried)."""

    def loss_of(rate: float) -> float:
        key = f"{rate:g}"
        if key not in evidence:
            evidence[key] = _tried(CONTESTANTS[name], subject, rate, steps, deadline)
        return evidence[key]["subject"]

    try:
        return name, search(loss_of), evidence
    except _OutOfTime:
        return name, None, evidence


def _tune_settings(
    record: dict, file: Path, subject: Subject, steps: int, jobs: int, deadline: float
) -> None:
    """Axis by axis; a change of the update's scale comes with its own rate."""
    default = TrainConfig.preset("small", **PAPER)
    evidence = record["evidence"].setdefault(TUNED, {})
    chosen: dict[str, object] = {}
    for axis, values in AXES.items():
        settings = {value: _changed({**chosen, axis: value}, default) for value in values}
        tasks = [
            (changes, _rate_for(changes, record["rates"]), subject, steps, deadline)
            for changes in settings.values()
            if _key(changes) not in evidence
        ]
        for changes, found in each(_with_settings, tasks, jobs):
            if found is None:
                return
            evidence[_key(changes)] = found
            store.write(file, record)
        tried = {value: evidence[_key(changes)] for value, changes in settings.items()}
        chosen[axis] = preferred(tried, getattr(default, axis))
        print(f"{TUNED}: {axis} = {chosen[axis]}", flush=True)
    record["settings"] = chosen
    record["rates"][TUNED] = _rate_for(chosen, record["rates"])
    store.write(file, record)


def _with_settings(
    changes: dict, rate: float, subject: Subject, steps: int, deadline: float
) -> tuple[dict, dict | None]:
    try:
        return changes, _tried(
            Contestant(TUNED, {**PAPER, **changes}), subject, rate, steps, deadline
        )
    except _OutOfTime:
        return changes, None


def _changed(settings: Mapping[str, object], default: TrainConfig) -> dict[str, object]:
    return {name: value for name, value in settings.items() if value != getattr(default, name)}


def _key(changes: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(changes.items())) or "default"


def _rate_for(settings: Mapping[str, object], rates: Mapping[str, float]) -> float:
    """What was found for this initialisation and importance, or for the paper's."""
    chosen = {**PAPER, **settings}
    return rates.get(_SAME_SCALE[chosen["init"], chosen["importance"]], rates["paper"])


def _tried(
    contestant: Contestant, subject: Subject, rate: float, steps: int, deadline: float
) -> dict[str, float]:
    """Means over SEEDS: losses relative to the base, parameters, mean rank."""
    found = []
    for seed in SEEDS:
        if time.time() > deadline:
            raise _OutOfTime
        lesson = _lesson(subject, seed)
        config = contestant.config(rate, steps, seed)
        order = batches(lesson.examples, batch_size=1, accumulation=1, seed=seed)
        try:
            result = train(denoiser(), order, config)
        except TrainingDiverged:
            return {"subject": math.inf, "general": math.inf, "parameters": math.inf}
        losses = measure.losses(lesson, result.factors)
        ranks = cutting.ranks(result.factors).values()
        found.append(
            {name: loss["relative"] for name, loss in losses.items()}
            | {
                "parameters": cutting.parameters(result.factors),
                "mean_rank": sum(ranks) / len(ranks),
            }
        )
    return {name: round(sum(f[name] for f in found) / len(found), 5) for name in found[0]}


@lru_cache(maxsize=len(SEEDS))
def _lesson(subject: Subject, seed: int) -> Lesson:
    return Lesson(subject, seed)
