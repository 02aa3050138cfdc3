"""What the adapters of the task of most subjects draw, and whom the judges see in it."""

import time
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from statistics import fmean

import numpy as np

from lora2_core.demo_model import studio
from lora2_core.demo_model.recipe.autoencoder import to_tensor
from lora2_core.demo_model.shapes import PICTURE
from lora2_core.drawn_world import render
from lora2_core.drawn_world.scene import Scene, caption
from lora2_core.errors import LoRA2Error
from lora2_core.layers.applied import applied

from . import identity, kept, reader, store, study
from .best import best_runs
from .contestants import CONTESTANTS, Contestant, rate
from .cutting import Factors, named
from .identity import Portrait
from .lesson import denoiser, lesson, model
from .plan import Run
from .tasks import Task
from .training import trained
from .workers import work

FILE = "pictures.jsonl"
BASE, RENDERS = "base", "renders"  # without an adapter, and the renderer through the autoencoder
ANCHORS = (BASE, RENDERS)
SCORES = ("identified", "confused", "likeness", "background")
PROMPTS = 2  # of each subject
_NOISE = 1000  # seed of what pictures are drawn from
_RENDERS = 8  # that a subject is known by


def results(folder: Path, tasks: Mapping[str, Task], judges: Path) -> list[dict]:
    """What is in the folder of the present tasks, weights, settings and judges."""
    stamps = {
        (task.name, name): store.stamp(task, _contestant(name))
        for task in tasks.values()
        for name in (*ANCHORS, *CONTESTANTS)
    }
    told = store.judges_stamp(judges)
    return [
        record
        for record in store.read(folder / FILE)
        if stamps.get((record["task"], record["contestant"])) == record["stamp"]
        and record["judges"] == told
    ]


def largest(tasks: Mapping[str, Task]) -> Task:
    """The task of most subjects; raises LoRA2Error if none has more than one."""
    found = max(tasks.values(), key=lambda task: len(task.subjects))
    if len(found.subjects) < 2:
        raise LoRA2Error("pictures are drawn of several subjects; give a task that has more")
    return found


def go(
    folder: Path,
    cache: Path,
    tasks: Mapping[str, Task],
    names: Sequence[str],
    seeds: Sequence[int],
    jobs: int,
    deadline: float,
    judges: Path,
) -> None:
    """Draws what is missing: each contestant at its best rate, and the anchors.

    cache: folder of the factors; what is not there is trained again. judges: their folder.
    deadline: in time.time(); nothing starts after it.
    """
    task = largest(tasks)
    runs = study.results(folder, tasks).records
    lacking = [Run(task.name, anchor, seed, 0) for anchor in ANCHORS for seed in seeds]
    for name in names:
        best = best_runs(runs, task.name, name)
        lacking += [study.run_of(best[seed]) for seed in seeds if seed in best]
    known = {study.run_of(record) for record in results(folder, tasks, judges)}
    lacking = [run for run in lacking if run not in known]

    def following(_: Collection[Run]) -> Run | None:
        return lacking.pop(0) if lacking and time.time() < deadline else None

    for run, record in work(following, partial(make, task, cache, judges), jobs):
        store.append(folder / FILE, record)
        told = ", ".join(f"{score} {record[score]:.2f}" for score in SCORES)
        print(f"{run.contestant}, seed {run.seed}: {told}", flush=True)


def make(task: Task, cache: Path, judges: Path, run: Run) -> dict:
    """The scores of one adapter, means over the subjects."""
    contestant = _contestant(run.contestant)
    stamp = store.stamp(task, contestant)
    learned = lesson(task, run.seed)
    asked = [learned.unseen(subject, PROMPTS) for subject in task.subjects]
    scenes = [scene for own in asked for scene in own]
    if run.contestant == RENDERS:
        drawn = _coded(_renders(scenes))
    else:
        anchor = run.contestant == BASE
        drawn = _drawn(scenes, {} if anchor else _factors(task, cache, contestant, run, stamp))
    rows = drawn.reshape(len(asked), PROMPTS, *drawn.shape[1:])
    found = [
        portrait.read(row) | reader.read(_reader(judges), row, own)
        for portrait, row, own in zip(_portraits(task, run.seed, judges), rows, asked, strict=True)
    ]
    scores = {score: round(fmean(one[score] for one in found), 4) for score in SCORES}
    return {**vars(run), "stamp": stamp, "judges": store.judges_stamp(judges), **scores}


def _contestant(name: str) -> Contestant:
    return Contestant(name, 0) if name in ANCHORS else CONTESTANTS[name]


def _drawn(scenes: Sequence[Scene], factors: Factors) -> np.ndarray:
    """uint8 [n, 128, 128, 3], by the model with the adapter."""
    prompts = [caption(scene) for scene in scenes]
    with applied(denoiser(), factors):
        return np.stack([np.asarray(one) for one in studio.draw(model(), prompts, _NOISE)])


def _factors(task: Task, cache: Path, contestant: Contestant, run: Run, stamp: str) -> Factors:
    found = kept.get(cache, run, stamp)
    if found is None:
        made = trained(contestant, lesson(task, run.seed), rate(run.step))
        found = named(made.factors, made.effects, contestant.saved)
        kept.keep(cache, run, stamp, found)
    return found


@lru_cache(maxsize=4)
def _portraits(task: Task, seed: int, judges: Path) -> list[Portrait]:
    network = identity.load(judges)
    learned = lesson(task, seed)
    shown = [  # others than those that are drawn
        _coded(_renders(learned.unseen(subject, PROMPTS + _RENDERS)[PROMPTS:]))
        for subject in task.subjects
    ]
    return [
        Portrait(network, subject, shown[index], shown[:index] + shown[index + 1 :], _coded)
        for index, subject in enumerate(task.subjects)
    ]


def _renders(scenes: Sequence[Scene]) -> np.ndarray:
    return np.stack([render(scene, PICTURE) for scene in scenes])


def _coded(pictures: np.ndarray) -> np.ndarray:
    """Through the model's autoencoder and back, as all that it draws is."""
    back = model().decode(model().encode_pictures(to_tensor(pictures)))
    return back.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()


@lru_cache(maxsize=1)
def _reader(judges: Path):
    return reader.load(judges)
