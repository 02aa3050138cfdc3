"""Each contestant at its best rate."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from . import plan
from .contestants import CONTESTANTS, WHOLE


def fidelity(record: Mapping) -> float | None:
    """Of the whole adapter; None where training diverged."""
    return record["cuts"][WHOLE][1] if "cuts" in record else None


def cell(records: Sequence[Mapping], task: str, contestant: str) -> list[Mapping]:
    """All runs of a contestant on a task."""
    return [r for r in records if r["task"] == task and r["contestant"] == contestant]


def best_runs(records: Sequence[Mapping], task: str, contestant: str) -> dict[int, Mapping]:
    """Seed → the run at the rate of the best mean fidelity, among the rates that were tried at the
    most seeds; {} where there is none, or all diverged.
    """
    by_step: dict[int, dict[int, Mapping]] = {}
    for record in cell(records, task, contestant):
        by_step.setdefault(record["step"], {})[record["seed"]] = record
    sound = {
        step: found
        for step, found in by_step.items()
        if all(fidelity(record) is not None for record in found.values())
    }
    if not sound:
        return {}
    most = max(len(found) for found in sound.values())
    often = {step: found for step, found in sound.items() if len(found) == most}
    means = {step: fmean(map(fidelity, found.values())) for step, found in often.items()}
    return often[min(sorted(means), key=means.get)]


def is_open(records: Sequence[Mapping], task: str, contestant: str) -> bool:
    """Whether a better rate may yet be found: at no seed is a worse one on either side."""
    by_seed: dict[int, dict[int, float]] = {}
    for record in cell(records, task, contestant):
        loss = fidelity(record)
        by_seed.setdefault(record["seed"], {})[record["step"]] = math.inf if loss is None else loss
    guess = CONTESTANTS[contestant].guess
    return all(plan.missing(found, guess) for found in by_seed.values())
