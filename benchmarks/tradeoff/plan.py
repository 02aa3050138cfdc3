"""Which runs are to be made next."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .contestants import Contestant

LIMITS = (-6, 14)  # of the steps: rates from 2.9e-6 to 0.37


@dataclass(frozen=True)
class Run:
    """task, contestant: names. step: of the rate grid (contestants.rate)."""

    task: str
    contestant: str
    seed: int
    step: int


def best(found: Mapping[int, float]) -> int:
    """The step of the least loss, of equal ones the lowest; found: step → loss."""
    return min(sorted(found), key=found.get)


def missing(found: Mapping[int, float], guess: int) -> list[int]:
    """Steps that the search for the best one lacks: the guess, then a neighbour on either side of
    the best so far, and none in the end.

    found: step → loss, infinite where training diverged.
    """
    middle = best(found) if found else guess
    around = (middle, middle + 1, middle - 1)
    return [step for step in around if step not in found and LIMITS[0] <= step <= LIMITS[1]]


def wanted(
    tasks: Collection[str],
    contestants: Collection[Contestant],
    seeds: Sequence[int],
    known: Mapping[Run, float],
) -> Iterator[Run]:
    """The runs that can be told now and are not known, the first to be made first: at the first
    seed a search for each task and contestant; at the others, where that has ended, its best rate
    and then one on either side.

    known: run → loss.
    """
    cells = [(task, one) for one in contestants for task in tasks]
    first, middles = seeds[0], {}
    for task, one in cells:
        found = losses(known, task, one.name, first)
        lacking = missing(found, one.guess)
        if not lacking:
            middles[task, one.name] = best(found)
        for step in lacking:
            yield Run(task, one.name, first, step)
    for seed in seeds[1:]:
        for aside in (0, 1, -1):
            for (task, name), middle in middles.items():
                run = Run(task, name, seed, middle + aside)
                if run not in known and LIMITS[0] <= run.step <= LIMITS[1]:
                    yield run


def losses(known: Mapping[Run, float], task: str, contestant: str, seed: int) -> dict[int, float]:
    """Step → loss at that seed."""
    return {
        run.step: loss
        for run, loss in known.items()
        if (run.task, run.contestant, run.seed) == (task, contestant, seed)
    }
