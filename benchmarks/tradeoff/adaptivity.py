"""Whether ranks follow the task."""

from collections.abc import Mapping
from statistics import fmean

from lora2_core.drawn_world.subjects import Subject


def complexity(subject: Subject) -> int:
    """Things that set an individual apart: pattern, coloured parts, emblem, extra."""
    return (
        (subject.pattern != "solid")
        + len(subject.parts)
        + (subject.emblem is not None)
        + (subject.extra is not None)
    )


def share_between(values: Mapping[tuple[str, int], float]) -> float | None:
    """Share of the variance that is the task's and not the seed's: the intraclass correlation
    ICC(1) [Shrout and Fleiss 1979], at most 1, about 0 or below if ranks do not depend on it.

    values: (task, seed) → mean rank. None unless every task has the same number of seeds, two at
    least, and ranks differ at all.
    """
    groups: dict[str, list[float]] = {}
    for (task, _), value in values.items():
        groups.setdefault(task, []).append(value)
    seeds = {len(found) for found in groups.values()}
    if len(groups) < 2 or len(seeds) != 1 or seeds == {1}:
        return None
    k = seeds.pop()
    means = [fmean(found) for found in groups.values()]
    middle = fmean(means)
    between = k * sum((mean - middle) ** 2 for mean in means) / (len(groups) - 1)
    within = sum(
        (value - mean) ** 2
        for found, mean in zip(groups.values(), means, strict=True)
        for value in found
    ) / (len(groups) * (k - 1))
    total = between + (k - 1) * within
    return (between - within) / total if total > 0 else None
