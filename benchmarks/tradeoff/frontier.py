"""Fidelity against forgetting: what a contestant can be had at, over rates, cuts and strengths."""

from collections.abc import Iterable, Mapping
from itertools import pairwise

Point = tuple[float, float]  # fidelity, forgetting; lower is better for both
BASE: Point = (0.0, 0.0)  # strength 0, which every adapter has


def points(records: Iterable[Mapping]) -> list[Point]:
    """Of everything that was measured, and the base."""
    found = [
        (fidelity, forgetting)
        for record in records
        for _, fidelity, forgetting in record.get("cuts", {}).values()
    ]
    return [BASE, *found]


def frontier(found: Iterable[Point]) -> list[Point]:
    """The points that no other beats in both, by fidelity falling towards the most faithful."""
    kept: list[Point] = []
    for fidelity, forgetting in sorted(set(found)):
        if not kept or forgetting < kept[-1][1]:
            kept.append((fidelity, forgetting))
    return kept[::-1]


def forgetting_at(found: Iterable[Point], level: float) -> float | None:
    """Forgetting at that fidelity, along straight lines from one point of the frontier to the next;
    None where none is as faithful. Less faithful than all: that of the least faithful one.
    """
    line = frontier(found)
    if level < line[-1][0]:
        return None
    if level >= line[0][0]:
        return line[0][1]
    (low, less), (high, more) = next(pair for pair in pairwise(line) if pair[1][0] <= level)
    return less + (low - level) / (low - high) * (more - less)


def level_of_both(one: Iterable[Point], other: Iterable[Point]) -> float:
    """The best fidelity of the less faithful of the two."""
    return max(min(fidelity for fidelity, _ in found) for found in (one, other))
