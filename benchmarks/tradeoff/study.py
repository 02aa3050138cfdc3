"""The study: runs made one after another, or two at a time, and their results kept."""

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch.linalg import LinAlgError

from lora2_core.errors import LoRA2Error

from . import kept, measure, plan, store
from .contestants import CONTESTANTS, WHOLE, rate
from .cutting import named
from .lesson import lesson
from .plan import Run
from .tasks import Task
from .training import trained
from .workers import work

FILE = "runs.jsonl"


@dataclass(frozen=True)
class Results:
    """records: of the present tasks, weights and settings. left_out: how many others there are."""

    records: list[dict]
    left_out: int


def results(folder: Path, tasks: Mapping[str, Task]) -> Results:
    """What is in the folder."""
    stamps = {
        (task.name, name): store.stamp(task, one)
        for task in tasks.values()
        for name, one in CONTESTANTS.items()
    }
    found, left_out = [], 0
    for record in store.read(folder / FILE):
        if stamps.get((record["task"], record["contestant"])) == record["stamp"]:
            found.append(record)
        else:
            left_out += 1
    return Results(found, left_out)


def run_of(record: Mapping) -> Run:
    return Run(record["task"], record["contestant"], record["seed"], record["step"])


def loss_of(record: Mapping) -> float:
    """Fidelity of the whole adapter; infinite where training diverged."""
    return record["cuts"][WHOLE][1] if "cuts" in record else math.inf


def go(
    folder: Path,
    cache: Path,
    tasks: Mapping[str, Task],
    names: Sequence[str],
    seeds: Sequence[int],
    jobs: int,
    deadline: float,
) -> None:
    """Makes what is missing, and appends each result to the file in this process alone.

    cache: folder for the factors that pictures are drawn with. deadline: in time.time(); no run
    starts after it.
    """
    known = {run_of(record): loss_of(record) for record in results(folder, tasks).records}
    contestants = [one for name, one in CONTESTANTS.items() if name in names]

    def following(busy: Collection[Run]) -> Run | None:
        if time.time() > deadline:
            return None
        lacking = plan.wanted(tasks, contestants, seeds, known)
        return next((run for run in lacking if run not in busy), None)

    started = time.time()
    for count, (run, record) in enumerate(work(following, partial(make, tasks, cache), jobs), 1):
        store.append(folder / FILE, record)
        known[run] = loss_of(record)
        minutes = (time.time() - started) / 60
        print(f"{_line(record)}; {count} runs in {minutes:.1f} minutes", flush=True)


def make(tasks: Mapping[str, Task], cache: Path, run: Run) -> dict:
    """The result of one run."""
    task, contestant = tasks[run.task], CONTESTANTS[run.contestant]
    record = {**vars(run), "rate": rate(run.step), "stamp": store.stamp(task, contestant)}
    learned = lesson(task, run.seed)
    _ = learned.probes  # so that its seconds are not the first run's
    started = time.perf_counter()
    try:
        found = trained(contestant, learned, rate(run.step))
    except (LoRA2Error, LinAlgError) as error:  # of numbers that are not finite
        return {**record, "diverged": str(error)}
    told = measure.measured(learned, found)
    if not all(map(math.isfinite, told[WHOLE])):
        return {**record, "diverged": f"the loss with it is {told[WHOLE]}"}
    saved = named(found.factors, found.effects, contestant.saved)
    if len(task.subjects) > 1:
        kept.keep(cache, run, record["stamp"], saved)
    return {
        **record,
        "mean_rank": round(found.mean_rank(found.factors), 3),
        "saved_rank": round(found.mean_rank(saved), 3),
        "seconds": round(found.seconds, 1),
        "all_seconds": round(time.perf_counter() - started, 1),
        "cuts": told,
    }


def _line(record: Mapping) -> str:
    head = f"{record['task']}, {record['contestant']}, seed {record['seed']}, {record['rate']:g}"
    if "cuts" not in record:
        return f"{head}: {record['diverged']}"
    size, fidelity, forgetting = record["cuts"][WHOLE]
    return f"{head}: {fidelity:+.2f} / {forgetting:+.2f}, {size / 1000:.0f}k"
