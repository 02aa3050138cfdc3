"""Algebra of low-rank updates against the dense matrix."""

import itertools

import pytest
import torch

from lora2_core.errors import LoRA2Error
from lora2_core.layers.low_rank import budget_ranks, energy_rank, product_svd, truncate


@pytest.mark.parametrize(("m", "r", "n"), [(40, 8, 24), (5, 8, 24), (40, 8, 3), (1, 1, 1)])
def test_the_product_is_decomposed_as_the_dense_matrix_is(m, r, n):
    generator = torch.Generator().manual_seed(0)
    up = torch.randn(m, r, generator=generator, dtype=torch.float64)
    down = torch.randn(r, n, generator=generator, dtype=torch.float64)
    u, sigma, vt = product_svd(up, down)
    k = min(m, r, n)
    assert u.shape == (m, k) and sigma.shape == (k,) and vt.shape == (k, n)
    assert torch.allclose((u * sigma) @ vt, up @ down)
    assert torch.allclose(sigma, torch.linalg.svdvals(up @ down)[:k])
    assert torch.allclose(u.t() @ u, torch.eye(k, dtype=torch.float64))


def test_half_precision_is_computed_in_fp32():
    up, down = torch.randn(16, 4).half(), torch.randn(4, 12).half()
    u, sigma, vt = product_svd(up, down)
    assert sigma.dtype == torch.float32
    assert torch.allclose((u * sigma) @ vt, up.float() @ down.float(), atol=1e-5)


@pytest.mark.parametrize(
    ("share", "rank"), [(0.0, 1), (0.5, 1), (0.64, 1), (0.65, 2), (0.99, 3), (1.0, 3)]
)
def test_the_least_rank_that_holds_a_share_of_the_energy(share, rank):
    assert energy_rank(torch.tensor([0.8, 0.5, 0.33166248]), share) == rank


def test_no_energy_is_rank_one():
    assert energy_rank(torch.zeros(4), 0.9) == 1


def test_truncation_error_is_the_tail_and_the_factors_are_balanced():
    up, down = torch.randn(20, 6), torch.randn(6, 15)
    sigma = torch.linalg.svdvals(up @ down)
    for rank in range(1, 7):
        u, d = truncate(up, down, rank)
        assert u.shape == (20, rank) and d.shape == (rank, 15)
        error = torch.linalg.norm(u @ d - up @ down)
        tail = sigma[rank:].square().sum().sqrt()
        assert torch.allclose(error, tail, atol=1e-4)
        assert torch.allclose(u.square().sum(0), d.square().sum(1), rtol=1e-4)


def test_a_budget_is_never_passed_and_at_equal_costs_equals_brute_force():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        sigmas = [torch.rand(4, generator=generator).sort(descending=True).values for _ in range(3)]
        for budget in range(3, 13):
            ranks = budget_ranks(sigmas, [1.0] * 3, budget)
            assert sum(ranks) <= budget

            def kept(ranks, sigmas=sigmas):
                return sum(s[:r].square().sum().item() for s, r in zip(sigmas, ranks, strict=True))

            best = max(
                kept(choice)
                for choice in itertools.product(range(1, 5), repeat=3)
                if sum(choice) <= budget
            )
            assert kept(ranks) == pytest.approx(best)


def test_a_dear_direction_is_passed_over_for_cheap_ones():
    sigmas = [torch.tensor([3.0, 2.0]), torch.tensor([1.0, 0.9])]
    assert budget_ranks(sigmas, [10.0, 1.0], 12.0) == [1, 2]
    assert budget_ranks(sigmas, [10.0, 1.0], 22.0) == [2, 2]


def test_directions_without_energy_are_not_bought():
    assert budget_ranks([torch.tensor([1.0, 0.0, 0.0])], [1.0], 3.0) == [1]


def test_a_budget_below_one_rank_each_is_refused_with_the_least():
    with pytest.raises(LoRA2Error, match=r"budget of 2 .* at least 5"):
        budget_ranks([torch.ones(2), torch.ones(2)], [2.0, 3.0], 2.0)
