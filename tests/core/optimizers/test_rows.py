"""AdamW over rows that come and go: every row counts its own steps."""

import pytest
import reference
import torch
from torch import nn

from lora2_core.layers.adapter import Adapter
from lora2_core.optimizers.adamw import RowAdamW

CPU = torch.device("cpu")
RATE, DECAY = 1e-2, 0.1


class Bench:
    """One adapter with its optimiser, driven by random gradients of known seed."""

    def __init__(self, rank, decay=DECAY):
        torch.manual_seed(0)
        self.adapter = Adapter("layer", nn.Linear(6, 5, bias=False), CPU)
        self.adapter.set_rank(rank, torch.randn(rank, 6), torch.randn(rank, 5))
        self.rho = nn.Parameter(torch.tensor([0.3, -0.2]))
        self.optimizer = RowAdamW(
            [self.adapter], self.rho, learning_rate=RATE, rho_learning_rate=0.5, weight_decay=decay
        )

    @property
    def rows(self):
        return self.adapter.a, self.adapter.b

    def step(self, size=1.0):
        grads = []
        for rows in self.rows:
            rows.active.grad = size * torch.randn_like(rows.active)
            grads.append(rows.active.grad.clone())
        self.optimizer.share_gradients()
        self.optimizer.adamw.step()
        self.optimizer.applied()
        self.optimizer.zero_grad()
        return grads

    def resize(self, rank, patience=10**9):
        adapter = self.adapter
        self.optimizer.before_change([0])
        count = max(rank - adapter.filled, 0)
        adapter.set_rank(rank, torch.randn(count, 6), torch.zeros(count, 5))
        moved = adapter.give_back(patience)
        self.optimizer.follow([0])
        return moved


def naive_rows(bench):
    return [[reference.Row(row.clone()) for row in rows.values] for rows in bench.rows]


def follow_naively(naive, grads):
    for rows, grad in zip(naive, grads, strict=True):
        for row, g in zip(rows, grad, strict=False):
            row.adam(g.double(), RATE, DECAY)


def assert_equal(bench, naive):
    for rows, twins in zip(bench.rows, naive, strict=True):
        for value, exp_avg, twin in zip(rows.values, rows.exp_avg, twins, strict=False):
            torch.testing.assert_close(value.double(), twin.value, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(exp_avg.double(), twin.m, rtol=1e-5, atol=1e-6)


def test_equals_one_naive_adam_a_row_through_growth_shrinkage_and_regrowth():
    bench = Bench(3)
    naive = naive_rows(bench)
    for rank, steps in ((3, 7), (6, 4), (2, 9), (5, 3), (10, 5), (9, 4), (10, 2)):
        filled = bench.adapter.filled
        bench.resize(rank)
        for rows, twins in zip(bench.rows, naive, strict=True):
            twins[filled:] = [reference.Row(v.clone()) for v in rows.values[filled:rank]]
        for _ in range(steps):
            follow_naively(naive, bench.step())
        assert_equal(bench, naive)
    bench.optimizer.before_change([0])
    assert bench.adapter.a.ages[:10] == [row.count for row in naive[0]]


def test_first_step_of_a_new_row_is_no_larger_than_the_learning_rate():
    """Row 0 has moved 300 times; with a shared step count, row 3 would jump 1.6 to 3.4 times lr."""
    bench = Bench(3, decay=0.0)
    for _ in range(300):
        bench.step()
    bench.resize(5)
    before = [rows.active.detach().clone() for rows in bench.rows]
    moments = [rows.exp_avg[:3].clone() for rows in bench.rows]
    grads = bench.step()
    for rows, old, moment, grad in zip(bench.rows, before, moments, grads, strict=True):
        moved = (rows.active - old).abs()
        assert moved[3:].max() <= 1.01 * RATE
        assert moved[3:].min() >= 0.99 * RATE
        torch.testing.assert_close(rows.exp_avg[:3], 0.9 * moment + 0.1 * grad[:3])


@pytest.mark.parametrize("rank", [9, 2])
def test_moments_of_surviving_rows_are_unchanged_by_a_resize(rank):
    bench = Bench(8)
    for _ in range(5):
        bench.step()
    kept = min(8, rank)
    before = [[t[:kept].clone() for t in (r.values, r.exp_avg, r.exp_avg_sq)] for r in bench.rows]
    bench.resize(rank)
    for rows, old in zip(bench.rows, before, strict=True):
        for now, then in zip((rows.values, rows.exp_avg, rows.exp_avg_sq), old, strict=True):
            assert torch.equal(now[:kept], then)
        assert rows.ages[:kept] == [5] * kept


def test_moments_survive_memory_given_back():
    bench = Bench(32)
    for _ in range(5):
        bench.step()
    before = [(r.values[:4].clone(), r.exp_avg[:4].clone()) for r in bench.rows]
    assert bench.resize(4, patience=0)
    assert bench.adapter.capacity == 8
    naive = naive_rows(bench)
    for rows, twins, (values, exp_avg) in zip(bench.rows, naive, before, strict=True):
        assert torch.equal(rows.values[:4], values) and torch.equal(rows.exp_avg[:4], exp_avg)
        for i, twin in enumerate(twins):
            twin.m, twin.v = rows.exp_avg[i].double(), rows.exp_avg_sq[i].double()
            twin.count = 5
    follow_naively(naive, bench.step())
    assert_equal(bench, naive)


def test_dormant_rows_get_no_update_from_momentum_or_decay():
    bench = Bench(8)
    for _ in range(5):
        bench.step()
    bench.resize(3)
    before = [[t[3:].clone() for t in (r.values, r.exp_avg, r.exp_avg_sq)] for r in bench.rows]
    for _ in range(5):
        bench.step()
    for rows, old in zip(bench.rows, before, strict=True):
        for now, then in zip((rows.values, rows.exp_avg, rows.exp_avg_sq), old, strict=True):
            assert torch.equal(now[3:], then)
    bench.resize(8)
    bench.optimizer.before_change([0])
    assert bench.adapter.a.ages == [10] * 3 + [5] * 5


def test_a_skipped_step_is_not_counted():
    bench = Bench(4)
    bench.step()
    bench.optimizer.zero_grad()  # a loss scaler met an overflow: neither adamw.step nor applied
    bench.step()
    bench.optimizer.before_change([0])
    assert bench.adapter.a.ages[:4] == [2] * 4


def test_rho_has_its_own_rate_and_no_decay():
    bench = Bench(2)
    before = bench.rho.detach().clone()
    bench.rho.grad = torch.tensor([1e-3, 0.0])
    bench.step()
    moved = bench.rho.detach() - before
    torch.testing.assert_close(moved, torch.tensor([-0.5, 0.0]), rtol=1e-4, atol=0)


def test_stopped_momentum_is_that_of_the_chosen_components_only():
    bench = Bench(2)
    bench.rho.grad = torch.tensor([1.0, 1.0])
    bench.step()
    bench.optimizer.stop_momentum(torch.tensor([True, False]))
    before = bench.rho.detach().clone()
    bench.rho.grad = torch.zeros(2)
    bench.step()
    moved = bench.rho.detach() - before
    assert moved[0] == 0 and moved[1] < 0


def test_clipping_treats_rho_apart_from_the_factors():
    bench = Bench(4)
    bench.adapter.a.active.grad = torch.full((4, 6), 0.01)
    bench.adapter.b.active.grad = torch.full((4, 5), 0.01)
    bench.rho.grad = torch.tensor([300.0, 400.0])
    bench.optimizer.share_gradients()
    norm = bench.optimizer.clip(1.0)
    torch.testing.assert_close(bench.rho.grad, torch.tensor([0.6, 0.8]))
    assert torch.equal(bench.adapter.a.active.grad, torch.full((4, 6), 0.01))
    assert float(norm) == pytest.approx(500 + 0.01 * 44**0.5)

    bench.adapter.a.active.grad = torch.full((4, 6), 3.0)
    bench.adapter.b.active.grad = torch.full((4, 5), 4.0)
    bench.optimizer.share_gradients()
    bench.optimizer.clip(1.0)
    joint = bench.adapter.a.active.grad.square().sum() + bench.adapter.b.active.grad.square().sum()
    assert float(joint) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("where", ["a", "b", "rho"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_norm_tells_of_a_gradient_that_is_not_finite(where, bad):
    bench = Bench(4)
    for rows in bench.rows:
        rows.active.grad = torch.ones_like(rows.active)
    bench.rho.grad = torch.ones(2)
    broken = bench.rho if where == "rho" else getattr(bench.adapter, where).active
    broken.grad.view(-1)[1] = bad
    bench.optimizer.share_gradients()
    assert not torch.isfinite(bench.optimizer.clip(1.0))
