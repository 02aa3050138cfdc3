"""Ranks and directions by a gradient: the leading ones are found, and nothing better fits."""

import itertools

import pytest
import torch

from lora2_core.effect.start import leading, starting_ranks

GAINS = [
    torch.tensor(one, dtype=torch.float64)
    for one in ([9.0, 5.0, 1.0], [7.0, 0.5, 0.1], [0.2, 0.1, 0.0], [0.0, 0.0, 0.0])
]


def gradient(m=30, n=20, rank=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.linalg.qr(torch.randn(size, rank, generator=generator, dtype=torch.float64))[0]
        for size in (m, n)
    )
    return left * torch.tensor([5.0, 2.0, 1.0][:rank]).double() @ right.t(), right.t()


def seen_through(g, rows, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, len(g), generator=generator, dtype=torch.float64) @ g / rows**0.5


def test_through_a_rotation_it_is_the_svd():
    g, right = gradient()
    turn = torch.linalg.qr(torch.randn(30, 30, dtype=torch.float64, generator=torch.Generator()))[0]
    found = leading(turn @ g)
    assert torch.allclose(found.gains[:3], torch.tensor([25.0, 4.0, 1.0]).double())
    assert found.gains[3:].max() < 1e-20
    for direction, expected in zip(found.directions, right, strict=False):
        assert abs(float(direction @ expected)) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("rows", [3, 8, 30])
def test_few_random_rows_span_all_that_there_is(rows):
    g, right = gradient()
    found = leading(seen_through(g, rows))
    kept = found.directions[:3]
    assert torch.allclose(kept @ kept.t(), torch.eye(3).double(), atol=1e-9)
    assert torch.allclose(right @ kept.t() @ kept, right, atol=1e-9)
    assert found.gains.tolist() == sorted(found.gains.tolist(), reverse=True)


def test_gains_are_those_of_the_gradient_in_the_mean():
    g, _ = gradient()
    sums = [float(leading(seen_through(g, 8, seed)).gains.sum()) for seed in range(400)]
    assert sum(sums) / 400 == pytest.approx(float(g.square().sum()), rel=0.1)


def test_what_is_not_finite_is_refused():
    g, _ = gradient()
    g[0, 0] = torch.nan
    with pytest.raises(torch.linalg.LinAlgError):
        leading(g)


@pytest.mark.parametrize("budget", range(4, 14))
def test_as_much_as_any_choice_gains_at_equal_costs(budget):
    ranks = starting_ranks(GAINS, [1.0] * 4, budget, [3] * 4)
    assert min(ranks) == 1 and sum(ranks) <= budget
    gained = sum(float(own[:r].sum()) for own, r in zip(GAINS, ranks, strict=True))
    for other in itertools.product(range(1, 4), repeat=4):
        held = sum(float(own[:r].sum()) for own, r in zip(GAINS, other, strict=True))
        assert sum(other) > budget or held <= gained + 1e-12


def test_a_direction_that_costs_more_must_gain_more():
    gains = [GAINS[0], GAINS[0]]
    assert starting_ranks(gains, [1.0, 10.0], 13, [3, 3]) == [3, 1]


def test_no_more_than_the_highest_and_one_where_even_that_does_not_fit():
    assert starting_ranks(GAINS, [1.0] * 4, 100, [2, 3, 3, 1]) == [2, 3, 2, 1]
    assert starting_ranks(GAINS, [1.0] * 4, 2, [3] * 4) == [1, 1, 1, 1]
