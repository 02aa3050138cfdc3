"""All contestants on one lesson: each is trained once, whoever is cut from it."""

import time
from dataclasses import asdict
from pathlib import Path

from lora2_core.diffusion.data import batches
from lora2_core.drawn_world.subjects import Subject
from lora2_core.errors import LoRA2Error
from lora2_core.training.loop import Training
from lora2_core.training.result import TrainingDiverged, TrainResult

from . import cutting, measure, store
from .contestants import CONTESTANTS, Contestant
from .lesson import Lesson, denoiser
from .tune import Choices
from .watch import Watch


class Session:
    """One subject at one seed. judges: their folder, or None to leave pictures out."""

    def __init__(
        self, results: Path, judges: Path | None, subject: Subject, seed: int, steps: int,
        choices: Choices,
    ):  # fmt: skip
        self._results, self._judges, self._steps, self._choices = results, judges, steps, choices
        self._lesson = Lesson(subject, seed)
        self._parents: dict[str, tuple[TrainResult, dict]] = {}
        self._common = {
            "weights": store.weights_stamp(),
            "judges": None if judges is None else store.judges_stamp(judges),
            "look": store.look_stamp(subject),
            "steps": steps,
        }

    def measured(self, name: str) -> tuple[dict, bool]:
        """(the contestant's record, whether it was made now)."""
        contestant = CONTESTANTS[name]
        subject, seed = self._lesson.subject.name, self._lesson.seed
        stamp = self._stamp(contestant)
        path = store.run_file(self._results, name, subject, seed)
        known = store.read(path, stamp)
        if known is not None:
            return known, False
        record = {"contestant": name, "subject": subject, "seed": seed, "stamp": stamp}
        record |= self._anchor(contestant) if contestant.anchor else self._adapter(contestant)
        store.write(path, record)
        return record, True

    def _stamp(self, contestant: Contestant) -> dict:
        return {**self._common, "settings": self._settings(contestant)}

    def _settings(self, contestant: Contestant) -> dict:
        """Everything that the contestant's adapter depends on."""
        if contestant.anchor:
            return {"anchor": contestant.anchor}
        if contestant.cutting:
            parents = [contestant.cutting.parent, contestant.cutting.like]
            named = {name: self._settings(CONTESTANTS[name]) for name in parents if name}
            return {**asdict(contestant.cutting), "of": named}
        return asdict(self._choices.config(contestant, self._steps, self._lesson.seed))

    def _anchor(self, contestant: Contestant) -> dict:
        if contestant.anchor == "base":
            found = {"losses": measure.losses(self._lesson, {}), "parameters": 0, "file_bytes": 0}
            if self._judges is not None:
                found["pictures"] = measure.pictures(self._lesson, self._judges, {})
            return found
        if self._judges is None:
            return {}
        coded = contestant.anchor == "coded_renders"
        return {"pictures": measure.renders(self._lesson, self._judges, coded)}

    def _adapter(self, contestant: Contestant) -> dict:
        lesson = self._lesson
        name = contestant.cutting.parent if contestant.cutting else contestant.name
        try:
            result, told = self._trained(CONTESTANTS[name])
        except TrainingDiverged as error:
            return {"diverged": str(error)}
        factors = self._cut(contestant, result.factors) if contestant.cutting else result.factors
        nus = {} if contestant.cutting else {key: nu for key, (nu, _) in result.ranks.items()}
        started = time.perf_counter()
        found = {
            "losses": measure.losses(lesson, factors),
            **measure.size(factors, result.config, nus),
            "ranks": list(cutting.ranks(factors).values()),
            **({"seconds": told["seconds"]} if contestant.cutting else told),
        }
        if self._judges is not None:
            found["pictures"] = measure.pictures(lesson, self._judges, factors)
        found["seconds"] = {
            "training": found["seconds"],
            "measuring": round(time.perf_counter() - started, 1),
        }
        return found

    def _cut(self, contestant: Contestant, factors: cutting.Factors) -> cutting.Factors:
        wanted = contestant.cutting
        budget = cutting.parameters(factors) // 2
        if wanted.energy is not None:
            budget = cutting.energy_budget(factors, wanted.energy)
        elif wanted.like is not None:
            like = self.measured(wanted.like)[0]
            if "diverged" in like:
                raise LoRA2Error(f"{wanted.like} diverged, so that {contestant.name} has no size")
            budget = like["parameters"]
        return cutting.cut(factors, budget, wanted.how, wanted.even)

    def _trained(self, contestant: Contestant) -> tuple[TrainResult, dict]:
        if contestant.name in self._parents:
            return self._parents[contestant.name]
        config = self._choices.config(contestant, self._steps, self._lesson.seed)
        order = batches(self._lesson.examples, batch_size=1, accumulation=1, seed=config.seed)
        started = time.perf_counter()
        training = Training(denoiser(), order, config)
        watch = Watch(training)
        result = training.run(watch.step)
        told = {
            "seconds": round(time.perf_counter() - started, 1),
            "trajectory": watch.trajectory(),
            "pull": watch.pull(),
            "loss_by_tenths": _tenths(result.losses),
        }
        if any(c.cutting and c.cutting.parent == contestant.name for c in CONTESTANTS.values()):
            self._parents[contestant.name] = result, told
        return result, told


def _tenths(losses: list[float]) -> list[float]:
    part = max(1, len(losses) // 10)
    cuts = [losses[start : start + part] for start in range(0, len(losses), part)]
    return [round(sum(cut) / len(cut), 5) for cut in cuts]
