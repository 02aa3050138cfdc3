"""The search for a rate, and the order of runs."""

import math

import pytest
from tradeoff import plan
from tradeoff.contestants import CONTESTANTS, rate
from tradeoff.plan import Run


def searched(loss_of, guess):
    """Every step that was tried, and the best."""
    found = {}
    while lacking := plan.missing(found, guess):
        found[lacking[0]] = loss_of(lacking[0])
    return found, plan.best(found)


@pytest.mark.parametrize("guess", [-3, 2, 9])
def test_the_search_ends_with_a_worse_rate_on_either_side(guess):
    found, best = searched(lambda step: (step - 2.3) ** 2, guess)
    assert best == 2 and {1, 2, 3} <= found.keys()
    assert len(found) <= abs(guess - 2) + 4


def test_the_search_stays_within_its_limits_and_passes_by_what_diverged():
    assert searched(lambda step: step, 0)[1] == plan.LIMITS[0]
    found, best = searched(lambda step: math.inf if step > 3 else -step, 5)
    assert best == 3 and found[4] == math.inf


def test_rates_are_a_factor_of_1_8_apart():
    assert [rate(step) for step in (-1, 0, 1, 4)] == [5.556e-05, 1e-4, 1.8e-4, 1.05e-3]


CELLS = ["a", "b"], [CONTESTANTS["lora2"], CONTESTANTS["lora_16"]]


def test_the_first_seed_is_searched_first_and_the_reference_before_others():
    first, *_, last = plan.wanted(*CELLS, [0, 1], {})
    assert first == Run("a", "lora2", 0, CONTESTANTS["lora2"].guess)
    assert (last.task, last.contestant, last.seed) == ("b", "lora_16", 0)


def test_other_seeds_get_the_best_rate_of_the_first_and_one_on_either_side():
    known = {Run("a", "lora2", 0, step): loss for step, loss in ((3, -1.0), (4, -3.0), (5, -2.0))}
    lacking = list(plan.wanted(["a"], [CONTESTANTS["lora2"]], [0, 7], known))
    assert lacking == [Run("a", "lora2", 7, step) for step in (4, 5, 3)]
    known |= dict.fromkeys(lacking[:2], -1.0)
    assert list(plan.wanted(["a"], [CONTESTANTS["lora2"]], [0, 7], known)) == lacking[2:]


def test_every_run_comes_once_and_then_nothing():
    known = {}
    while run := next(plan.wanted(*CELLS, [0, 1, 2], known), None):
        assert run not in known
        known[run] = (run.step - 4) ** 2
    assert all(len([r for r in known if r.seed == seed]) == 12 for seed in (1, 2))
