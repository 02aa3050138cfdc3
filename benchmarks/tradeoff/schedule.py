"""Which runs are made, and in what order."""

import time
from collections.abc import Sequence
from pathlib import Path

from lora2_core.drawn_world.subjects import Subject

from . import tune
from .contestants import CONTESTANTS
from .session import Session
from .tune import Choices
from .workers import each


def run(
    results: Path,
    judges: Path | None,
    subjects: Sequence[Subject],
    seeds: Sequence[int],
    names: Sequence[str],
    steps: int,
    jobs: int,
    deadline: float,
) -> None:
    """All subjects at the first seed, then at the next; what is there already is kept.

    judges: their folder; without it no pictures are drawn. deadline: in time.time(); no run starts
    after it.
    """
    choices = tune.load(results)
    for name in names:
        if CONTESTANTS[name].trained:
            choices.config(CONTESTANTS[name], steps, 0)  # raises before hours are spent
    started = time.time()
    tasks = [
        (results, judges, subject, seed, list(names), steps, choices, deadline)
        for seed in seeds
        for subject in subjects
    ]
    made = 0
    for count in each(lesson, tasks, jobs):
        made += count
        minutes = (time.time() - started) / 60
        print(f"{made} runs in {minutes:.1f} minutes", flush=True)


def lesson(
    results: Path, judges: Path | None, subject: Subject, seed: int, names: Sequence[str],
    steps: int, choices: Choices, deadline: float,
) -> int:  # fmt: skip
    """One subject at one seed, every contestant in turn; returns how many were made."""
    session = Session(results, judges, subject, seed, steps, choices)
    made = 0
    for name in names:
        if time.time() > deadline:
            break
        record, fresh = session.measured(name)
        made += fresh
        if fresh:
            print(_line(record), flush=True)
    return made


def _line(record: dict) -> str:
    head = f"{record['subject']} {record['seed']} {record['contestant']}"
    if "losses" not in record:
        return f"{head}: {record.get('diverged', record.get('pictures'))}"
    subject, general = (record["losses"][name]["relative"] for name in ("subject", "general"))
    return f"{head}: {subject:+.3f}, {general:+.4f}, {record['parameters']} parameters"
