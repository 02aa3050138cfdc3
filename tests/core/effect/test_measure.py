"""Effects from r × r moments against the dense twin with full G and C."""

import pytest
import reference
import torch
from random_component import M, N, R, component

from lora2_core.effect.measure import (
    Moments,
    best,
    directions,
    effect,
    root,
    seen_through,
    whole,
)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("r", [1, 4, 7])
def test_small_moments_know_what_the_dense_ones_know(seed, r):
    up, down, moments, g, c = component(seed, r=r)
    found = directions(moments)
    for rank in range(r + 1):
        expected, effects = reference.best_by_effect(up @ down, g, c, rank)
        new_up, new_down = best(up, down, found, rank)
        assert torch.allclose(new_up @ new_down, expected, atol=1e-5)
        assert torch.allclose(found.effects, effects[:r], rtol=1e-5, atol=1e-7 * float(effects[0]))
    change = torch.randn(r, r, dtype=torch.float64)
    dense = reference.effect_of(up @ change @ down, g, c)
    assert effect(change, moments) == pytest.approx(dense, rel=1e-9)
    assert float(whole(moments)) == pytest.approx(dense_whole := float(effects.sum()), rel=1e-9)
    assert reference.effect_of(up @ down, g, c) == pytest.approx(dense_whole, rel=1e-9)


def test_what_is_left_out_is_what_the_cut_costs():
    up, down, moments, g, c = component()
    found = directions(moments)
    for rank in range(R + 1):
        new_up, new_down = best(up, down, found, rank)
        lost = reference.effect_of(up @ down - new_up @ new_down, g, c)
        assert lost == pytest.approx(float(found.effects[rank:].sum()), rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_no_other_adapter_of_the_rank_loses_less(rank):
    up, down, moments, g, c = component(3)
    found = directions(moments)
    least = float(found.effects[rank:].sum())
    generator = torch.Generator().manual_seed(1)
    best_up, best_down = best(up, down, found, rank)
    for size in (1e-3, 0.1, 1.0):
        for _ in range(50):
            other_up = best_up + size * torch.randn(M, rank, generator=generator)
            other_down = best_down + size * torch.randn(rank, N, generator=generator)
            lost = reference.effect_of(up @ down - other_up @ other_down, g, c)
            assert lost >= least * (1 - 1e-9)


def test_all_of_it_is_the_same_in_another_basis():
    up, down, moments, _, _ = component(4)
    found = directions(moments)
    mixed = torch.randn(R, R, dtype=torch.float64) * torch.tensor([1e3, 1.0, 1.0, 1e-3])
    inverse = torch.linalg.inv(mixed)
    other = directions(seen_through(moments, mixed, inverse))
    assert torch.allclose(other.effects, found.effects, rtol=1e-6)
    for rank in range(1, R + 1):
        one, another = best(up, down, found, rank), best(up @ mixed, inverse @ down, other, rank)
        assert torch.allclose(one[0] @ one[1], another[0] @ another[1], rtol=1e-5, atol=1e-6)


def test_the_new_factors_have_their_effects_on_the_diagonal():
    _, _, moments, _, _ = component(5)
    found = directions(moments)
    new = seen_through(moments, found.left, found.right)
    assert torch.allclose(new.p @ new.q, torch.diag(found.effects), atol=1e-8)
    assert torch.allclose(directions(new).effects, found.effects)


def test_rows_of_very_unequal_size_keep_their_digits():
    scales = [1e6, 1.0, 1e-3, 1e-6]
    up, down, moments, g, c = component(6, scales=scales)
    lower = up[:, 1:], down[1:], Moments(moments.p[1:, 1:], moments.q[1:, 1:])
    _, expected = reference.best_by_effect(lower[0] @ lower[1], g, c, 3)
    assert torch.allclose(directions(lower[2]).effects[:2], expected[:2], rtol=1e-6)
    assert float(directions(moments).effects[0]) > 1e6 * float(expected[0])


@pytest.mark.parametrize("which", ["p", "q", "both"])
def test_singular_moments_lose_nothing_that_has_an_effect(which):
    up, down, moments, _, _ = component(7)
    flat = torch.ones(R, R, dtype=torch.float64)  # of rank 1
    moments = Moments(flat if which != "q" else moments.p, flat if which != "p" else moments.q)
    found = directions(moments)
    assert found.effects[1:].sum() <= 1e-5 * found.effects[0]
    new_up, new_down = best(up, down, found, 1)
    assert torch.isfinite(new_up).all() and torch.isfinite(new_down).all()
    kept = found.left[:, :1] @ found.right[:1]
    lost = effect(torch.eye(R, dtype=torch.float64) - kept, moments)
    assert lost <= 1e-5 * float(whole(moments))


def test_a_row_of_which_nothing_is_known_stays_in_the_whole():
    up, down, moments, _, _ = component(9)
    known = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    found = directions(Moments(*(part * known * known[:, None] for part in moments)))
    new_up, new_down = best(up, down, found, R)
    assert torch.allclose(new_up @ new_down, up @ down, atol=1e-4)
    assert found.effects[-1] <= 1e-6 * found.effects[0]


@pytest.mark.parametrize("tokens", [1, 3, 9])
def test_what_few_tokens_tell_puts_the_whole_in_order_without_loss(tokens):
    """Of 16 rows, in fp32, as a file has them."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        up, down = (
            torch.randn(40, 16, generator=generator),
            torch.randn(16, 30, generator=generator),
        )
        p, q = (torch.randn(tokens, 16, generator=generator) for _ in range(2))
        found = directions(Moments(p.t() @ p, q.t() @ q))
        new_up, new_down = (part.float() for part in best(up, down, found, 16))
        change = new_up @ new_down - up @ down
        assert change.norm() <= 1e-4 * (up @ down).norm()


def test_a_component_that_never_moved_has_no_effect():
    zeros = torch.zeros(R, R)
    for moments in (Moments(zeros, torch.eye(R)), Moments(torch.eye(R), zeros)):
        found = directions(moments)
        assert not found.effects.any() and not found.left.any() and not found.right.any()


def test_effects_of_all_components_add_up():
    parts = [component(seed) for seed in range(3)]
    moments = [part[2] for part in parts]
    summed = sum(float(directions(one).effects.sum()) for one in moments)
    assert summed == pytest.approx(sum(float(whole(one)) for one in moments))


def test_a_root_is_a_root():
    _, _, moments, _, _ = component(8)
    assert torch.allclose(root(moments.p) @ root(moments.p).t(), moments.p)
    assert root(torch.zeros(2, 2)).eq(0).all()
    with pytest.raises(torch.linalg.LinAlgError):
        root(torch.tensor([[torch.nan]]))
