"""Ranks by effect: what is kept, and that nothing better fits."""

import itertools

import pytest
import torch

from lora2_core.effect.spend import ranks_for_budget, ranks_for_share


def tensors(*lists):
    return [torch.tensor(one, dtype=torch.float64) for one in lists]


EFFECTS = tensors([5.0, 1.0, 0.1], [2.0, 2.0], [0.01, 0.0], [0.0])
WHOLE = 10.11


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.99, 0.999, 1.0])
def test_the_share_is_kept_and_no_cheaper_choice_keeps_it(share):
    costs = [1.0] * 4
    ranks = ranks_for_share(EFFECTS, costs, share)
    kept = sum(float(own[:rank].sum()) for own, rank in zip(EFFECTS, ranks, strict=True))
    assert kept >= share * WHOLE - 1e-9
    for other in itertools.product(range(4), range(3), range(3), range(2)):
        held = sum(float(own[:rank].sum()) for own, rank in zip(EFFECTS, other, strict=True))
        assert held < share * WHOLE - 1e-9 or sum(other) >= sum(ranks)


def test_a_direction_that_costs_more_leaves_first():
    effects = tensors([1.0, 1.0], [1.0, 1.0])
    assert ranks_for_share(effects, [1.0, 10.0], 0.7) == [2, 1]
    assert ranks_for_share(effects, [10.0, 1.0], 0.5) == [0, 2]


def test_all_of_the_effect_drops_what_has_none():
    assert ranks_for_share(EFFECTS, [1.0] * 4, 1.0) == [3, 2, 1, 0]


def test_without_any_effect_nothing_leaves():
    assert ranks_for_share(tensors([0.0, 0.0], [0.0]), [1.0, 1.0], 0.5) == [2, 1]


@pytest.mark.parametrize("budget", range(8))
def test_a_budget_keeps_as_much_as_any_choice_at_equal_costs(budget):
    ranks = ranks_for_budget(EFFECTS, [1.0] * 4, budget)
    assert sum(ranks) <= budget
    kept = sum(float(own[:rank].sum()) for own, rank in zip(EFFECTS, ranks, strict=True))
    for other in itertools.product(range(4), range(3), range(3), range(2)):
        held = sum(float(own[:rank].sum()) for own, rank in zip(EFFECTS, other, strict=True))
        assert sum(other) > budget or held <= kept + 1e-12


def test_what_does_not_fit_makes_room_for_what_does():
    effects = tensors([9.0, 8.0], [1.0])
    assert ranks_for_budget(effects, [4.0, 1.0], 6.0) == [1, 1]
    assert ranks_for_budget(effects, [4.0, 1.0], 0.5) == [0, 0]


def test_what_the_first_direction_costs_beside_is_counted():
    effects = tensors([9.0, 8.0], [7.0, 6.0])
    assert ranks_for_budget(effects, [1.0, 1.0], 4.0, [0.0, 0.0]) == [2, 2]
    assert ranks_for_budget(effects, [1.0, 1.0], 4.0, [1.0, 1.0]) == [2, 0]
    assert ranks_for_budget(effects, [1.0, 1.0], 4.0, [4.0, 1.0]) == [0, 2]
