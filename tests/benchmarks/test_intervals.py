"""Intervals over seeds and over tasks."""

import math
import random
from statistics import fmean, stdev

import numpy as np
import pytest
from tradeoff import intervals


@pytest.mark.parametrize("freedom", [1, 2, 3, 5, 8, 30])
def test_the_t_quantile_holds_95_per_cent_of_the_density(freedom):
    """Against the density, summed numerically."""
    limit = intervals.t_quantile(freedom)
    x = np.linspace(-limit, limit, 200_001)
    norm = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(freedom * math.pi)
    density = norm * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    assert np.trapezoid(density, x) == pytest.approx(0.95, abs=1e-4)


def naive_interval(values):
    """Average the seeds, then the textbook formula with a quantile from a printed table."""
    quantile = {2: 4.302653, 5: 2.570582}
    tasks = sorted({task for task, _ in values})
    means = [fmean(v for (t, _), v in values.items() if t == task) for task in tasks]
    return fmean(means), quantile[len(means) - 1] * stdev(means) / len(means) ** 0.5


@pytest.mark.parametrize("count", [3, 6])
def test_an_interval_over_tasks_equals_its_naive_twin(count):
    rng = random.Random(count)
    values = {(f"t{i}", seed): rng.gauss(i, 1) for i in range(count) for seed in range(3)}
    found = intervals.over_tasks(values)
    assert (found.mean, found.half) == pytest.approx(naive_interval(values), rel=1e-6)
    assert found.count == count


def test_more_seeds_of_a_task_are_no_more_tasks():
    once = {("a", 0): 1.0, ("b", 0): 2.0}
    often = {(task, seed): v for (task, _), v in once.items() for seed in range(50)}
    assert intervals.over_tasks(often) == intervals.over_tasks(once)


def test_paired_differences_take_away_what_the_tasks_share():
    rng = random.Random(0)
    ours = {(f"t{i}", seed): 100.0 * i + rng.gauss(0, 0.1) for i in range(6) for seed in range(3)}
    theirs = {key: value + 1 for key, value in ours.items()} | {("only here", 0): 5.0}
    gap = intervals.over_tasks(intervals.differences(ours, theirs))
    assert gap.mean == pytest.approx(-1) and gap.half < 1e-9 and gap.clear
    assert intervals.over_tasks(ours).half > 100
    assert intervals.differences(ours, {}) == {}


def test_one_number_has_no_interval():
    found = intervals.interval([3.0])
    assert found.mean == 3 and math.isnan(found.half) and not found.clear
