"""Means with intervals: over seeds of one task, and over tasks."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """mean ± half; half is NaN if there are fewer than two numbers. count: of these."""

    mean: float
    half: float
    count: int

    @property
    def clear(self) -> bool:
        """Whether it leaves out 0."""
        return abs(self.mean) > self.half

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.half:.3f}"


def interval(numbers: Iterable[float]) -> Interval:
    """Student's interval at 95 %."""
    found = list(numbers)
    if len(found) < 2:
        return Interval(fmean(found), math.nan, len(found))
    half = t_quantile(len(found) - 1) * stdev(found) / math.sqrt(len(found))
    return Interval(fmean(found), half, len(found))


def over_tasks(values: Mapping[tuple[str, int], float]) -> Interval:
    """Of tasks that were not tried; values: (task, seed) → number.

    The seeds of a task are averaged first: they are no independent witnesses of what happens on
    another task.
    """
    by_task: dict[str, list[float]] = {}
    for (task, _), value in values.items():
        by_task.setdefault(task, []).append(value)
    return interval(fmean(found) for found in by_task.values())


def differences(
    values: Mapping[tuple[str, int], float], others: Mapping[tuple[str, int], float]
) -> dict[tuple[str, int], float]:
    """values − others where both are known."""
    return {key: values[key] - others[key] for key in sorted(values.keys() & others.keys())}


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
