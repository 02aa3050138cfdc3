"""Whether ranks follow the subject."""

from collections.abc import Mapping, Sequence
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
    """Share of the variance that is the subject's and not the seed's: the intraclass correlation
    ICC(1) [Shrout and Fleiss 1979], at most 1, about 0 or below if ranks do not depend on it.

    values: (subject, seed) → mean rank. None unless every subject has the same number of seeds,
    two at least, and ranks differ at all.
    """
    groups: dict[str, list[float]] = {}
    for (subject, _), value in values.items():
        groups.setdefault(subject, []).append(value)
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


def spearman(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Rank correlation; equal values share their place. None where one does not vary."""
    a, b = _places(xs), _places(ys)
    mean = fmean(a)
    spread = sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b)
    if spread == 0:
        return None
    return sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True)) / spread**0.5


def _places(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values]
