"""What a contestant can be had at, against a slow twin."""

import random

import pytest
from tradeoff import frontier


def naive(found, level):
    """Every point that none beats in both; then the two nearest on either side."""
    best = [p for p in found if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in found)]
    better = [p for p in best if p[0] <= level]
    worse = [p for p in best if p[0] >= level]
    if not better:
        return None
    near = max(better)
    if not worse:
        return near[1]
    far = min(worse)
    if far == near:
        return near[1]
    return near[1] + (level - near[0]) / (far[0] - near[0]) * (far[1] - near[1])


@pytest.mark.parametrize("seed", range(20))
def test_it_equals_its_naive_twin(seed):
    rng = random.Random(seed)
    found = [(0.0, 0.0), *((-rng.uniform(0, 9), rng.uniform(-0.5, 9)) for _ in range(30))]
    for level in (-10, -9, -5, -2.5, -1, 0, 1, found[5][0]):
        wanted = naive(found, level)
        assert frontier.forgetting_at(found, level) == (
            None if wanted is None else pytest.approx(wanted)
        )


def test_what_another_beats_in_both_is_not_on_it():
    found = [(-1.0, 1.0), (-2.0, 1.5), (-1.5, 3.0), (-2.0, 2.0), (-0.5, 1.0)]
    assert frontier.frontier(found) == [(-1.0, 1.0), (-2.0, 1.5)]


def test_the_level_is_the_best_of_the_less_faithful():
    assert frontier.level_of_both([(-9.0, 3), (-1.0, 0)], [(-4.0, 1), (-2.0, 0)]) == -4


def test_points_are_of_all_that_was_measured():
    records = [{"cuts": {"whole": [100, -3, 2], "effect": [50, -2, 1]}}, {"diverged": "NaN"}]
    assert frontier.points(records) == [(0, 0), (-3, 2), (-2, 1)]
