"""f(x; ν) and the rank it implies: method.md's property 1."""

import math

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora2_core.layers.importance import (
    importance,
    importances,
    log_mass,
    nu_for_rank,
    nu_of,
    quantile_rank,
    rho_of,
    sum_of_squares,
)

RANKS = (1, 8, 64, 512)
NUS = (0.0045, 0.036, 0.29, 2.3)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("nu", NUS)
def test_f_equals_the_naive_twin_in_fp32(nu, rank):
    expected = torch.tensor([reference.f(x, nu) for x in range(rank)])
    torch.testing.assert_close(importance(torch.tensor(nu), rank), expected, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("nu", NUS)
def test_sums_of_f_have_their_closed_forms(nu, rank):
    f = importance(torch.tensor(nu, dtype=torch.float64), rank)
    assert float(f.sum()) == pytest.approx(1 - math.exp(-nu * rank), rel=1e-12)
    assert float((f**2).sum()) == pytest.approx(sum_of_squares(nu, rank), rel=1e-12)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("nu", NUS)
def test_gradient_of_f_is_the_closed_form_and_the_finite_difference(nu, rank):
    leaf = torch.tensor(nu, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: importance(v, rank), leaf)
    closed = torch.tensor([reference.f_gradient(x, nu) for x in range(rank)], dtype=torch.float64)
    torch.testing.assert_close(jacobian, closed, rtol=1e-9, atol=1e-13)
    step = nu * 1e-5
    difference = (importance(leaf + step, rank) - importance(leaf - step, rank)) / (2 * step)
    torch.testing.assert_close(jacobian, difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("nu", NUS)
def test_mass_of_the_kept_rows_grows_with_nu_as_d_times_its_tail(nu, rank):
    """Σ ∂f/∂ν = D e^{−νD}: never zero, so that a component at rank 1 can still leave it."""
    leaf = torch.tensor(nu, dtype=torch.float64, requires_grad=True)
    importance(leaf, rank).sum().backward()
    expected = rank * math.exp(-nu * rank)
    assert float(leaf.grad) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("nu", NUS)
def test_of_unit_energy_only_the_shape_depends_on_nu(nu):
    """The naive twin's values; Σ Λ² = 1 − e^{−2νD} has no other trace of ν; rank 1 can leave."""
    leaf = torch.tensor([nu, nu], dtype=torch.float64, requires_grad=True)
    ranks = [1, math.ceil(log_mass() / nu)]
    alone, kept = importances(leaf, ranks, unit_energy=True)
    first = kept.detach()[:20]
    expected = [reference.unit_f(x, nu) for x in range(len(first))]
    assert first.tolist() == pytest.approx(expected, rel=1e-9)
    energy = float(kept.detach().square().sum())
    assert energy == pytest.approx(sum_of_squares(nu, ranks[1], unit_energy=True), rel=1e-12)
    assert 0.98 < energy < 1
    alone.sum().backward()
    assert leaf.grad[0] > 0


def test_many_components_at_once_equal_each_alone_with_gradients():
    ranks = [1, 8, 64, 3]
    nu = torch.tensor(NUS, requires_grad=True)
    weights = [torch.randn(rank) for rank in ranks]
    parts = importances(nu, ranks)
    sum((w * part).sum() for w, part in zip(weights, parts, strict=True)).backward()
    for i, rank in enumerate(ranks):
        alone = torch.tensor(NUS[i], requires_grad=True)
        f = importance(alone, rank)
        (weights[i] * f).sum().backward()
        assert torch.equal(parts[i], f)
        torch.testing.assert_close(nu.grad[i], alone.grad, rtol=1e-5, atol=1e-6)


def test_rank_of_the_target_survives_a_softplus_round_trip_in_fp32():
    wanted = torch.arange(1, 513)
    nu = torch.tensor([nu_for_rank(int(rank)) for rank in wanted])
    assert torch.equal(quantile_rank(nu_of(rho_of(nu)), 1, 512), wanted)


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
def test_rank_of_the_target_is_exact_for_other_quantiles(q):
    wanted = torch.arange(1, 513)
    nu = torch.tensor([nu_for_rank(int(rank), q) for rank in wanted])
    assert torch.equal(quantile_rank(nu, 1, 512, q), wanted)


def test_kept_rows_hold_the_quantile_of_the_mass():
    """Up to the slack of one percent: D rows hold q, D−1 rows hold less."""
    for nu in torch.logspace(-2.2, 0.3, 400, dtype=torch.float64).tolist():
        rank = int(quantile_rank(torch.tensor([nu]), 1, 10_000))
        assert 1 - math.exp(-nu * rank / 0.99) >= 0.9 - 1e-6
        assert rank == 1 or 1 - math.exp(-nu * (rank - 1)) < 0.9


def test_rank_never_rises_with_nu():
    nu = torch.logspace(-4, 2, 50_000)
    ranks = quantile_rank(nu, 1, 512)
    assert (ranks.diff() <= 0).all()
    assert ranks[0] == 512 and ranks[-1] == 1


@settings(derandomize=True, database=None)
@given(st.floats(1e-4, 50), st.integers(1, 64), st.sampled_from([0.5, 0.9, 0.99]))
def test_rank_equals_the_naive_twin_within_its_bounds(nu, r_max, q):
    rank = int(quantile_rank(torch.tensor([nu], dtype=torch.float64), 1, r_max, q))
    assert rank == reference.quantile_rank(nu, 1, r_max, q)


def test_rank_takes_one_bound_a_component_and_carries_no_gradient():
    nu = torch.full((3,), nu_for_rank(100), requires_grad=True)
    ranks = quantile_rank(nu, 2, torch.tensor([5, 100, 512]))
    assert ranks.tolist() == [5, 100, 100]
    assert not ranks.requires_grad and ranks.dtype == torch.int64


@settings(derandomize=True, database=None)
@given(st.floats(1e-3, 80))
def test_softplus_is_undone_by_its_inverse(nu):
    back = float(nu_of(rho_of(torch.tensor(nu))))
    assert back == pytest.approx(nu, rel=2e-6)


def test_log_mass_is_the_rank_times_nu():
    assert log_mass(0.9) == pytest.approx(math.log(10))
    assert nu_for_rank(7) * 7 == pytest.approx(math.log(10))
