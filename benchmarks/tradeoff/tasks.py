"""What adapters are to learn: tasks that need more and more rank."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from lora2_core.drawn_world.hand import Hand
from lora2_core.drawn_world.subjects import Subject

from .adaptivity import complexity

HAND = Hand(ink=(58, 30, 150), line=0.11, stroke=0.06, gap=0.24)
STEPS = {1: 300, 3: 700, 10: 1500}  # by subjects; in between, and beyond, along a line
STYLE_STEPS = 600
_SINGLES = 3
_GROUPS = (3, 10)


@dataclass(frozen=True)
class Task:
    """subjects: learned together in one adapter. hand: in which all objects of the world are drawn,
    where that is to be learned and no subject is.
    """

    name: str
    subjects: tuple[Subject, ...] = ()
    hand: Hand | None = None

    @property
    def steps(self) -> int:
        return STYLE_STEPS if self.hand else steps(len(self.subjects))


def steps(subjects: int) -> int:
    """Of a run that learns so many."""
    known = sorted(STEPS)
    pairs = list(pairwise(known))
    low, high = next((pair for pair in pairs if subjects <= pair[1]), pairs[-1])
    slope = (STEPS[high] - STEPS[low]) / (high - low)
    return round(STEPS[low] + slope * (subjects - low))


def tasks(subjects: Mapping[str, Subject]) -> dict[str, Task]:
    """Name → task: single subjects from the least to the most complex, several in one adapter, and
    the style of one hand. Where there are too few subjects a task has what there is."""
    everyone = list(subjects.values())
    singles = _spread(everyone)
    found = [Task(f"1: {one.name}", (one,)) for one in singles]
    for count in _GROUPS:
        group = _of_different_kinds([*singles, *everyone])[:count]
        if len(group) > 1:
            found.append(Task(f"{len(group)} subjects", tuple(group)))
    found.append(Task("style", hand=HAND))
    return {task.name: task for task in found}


def _spread(subjects: list[Subject]) -> list[Subject]:
    """The least complex, the most, and one in the middle."""
    ordered = sorted(subjects, key=complexity)
    last = len(ordered) - 1
    places = {round(index * last / (_SINGLES - 1)) for index in range(_SINGLES)}
    return [ordered[place] for place in sorted(places)]


def _of_different_kinds(subjects: Iterable[Subject]) -> list[Subject]:
    """The first of each kind: a caption names the kind and one rare word for all of them."""
    found: dict[str, Subject] = {}
    for one in subjects:
        found.setdefault(one.kind, one)
    return list(found.values())
