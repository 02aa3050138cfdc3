"""Means with intervals, for subjects that were not tried."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """mean ± half; half is NaN if there are fewer than two subjects. count: of subjects."""

    mean: float
    half: float
    count: int

    @property
    def clear(self) -> bool:
        """Whether it leaves out 0."""
        return abs(self.mean) > self.half

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.half:.3f}"


def over_subjects(values: Mapping[tuple[str, int], float]) -> Interval:
    """Student's interval at 95 %; values: (subject, seed) → number.

    The seeds of a subject are averaged first: they are no independent witnesses of what happens
    on another subject.
    """
    by_subject: dict[str, list[float]] = {}
    for (subject, _), value in values.items():
        by_subject.setdefault(subject, []).append(value)
    means = [fmean(found) for found in by_subject.values()]
    if len(means) < 2:
        return Interval(fmean(means), math.nan, len(means))
    half = t_quantile(len(means) - 1) * stdev(means) / math.sqrt(len(means))
    return Interval(fmean(means), half, len(means))


def paired(
    values: Mapping[tuple[str, int], float], others: Mapping[tuple[str, int], float]
) -> Interval | None:
    """Of the differences values − others where both are known, or None if they share nothing."""
    shared = values.keys() & others.keys()
    if not shared:
        return None
    return over_subjects({key: values[key] - others[key] for key in sorted(shared)})


def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """t with P(|T| < t) = level; freedom: degrees, a whole number from 1."""
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _central(middle, freedom) < level else (low, middle)
    return high


def _central(t: float, freedom: int) -> float:
    """P(|T| < t) in closed form [Abramowitz and Stegun 26.7.3 and 26.7.4]."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(freedom // 2):
        total += term
        term *= cosine**2 * (2 * k + 1 + odd) / (2 * k + 2 + odd)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
