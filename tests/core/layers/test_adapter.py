"""One adapted layer: growing, shrinking, memory, and the numbers it adds to its layer."""

import pytest
import torch
from torch import nn

from lora2_core.layers.adapter import BUCKETS, Adapter, capacity_for
from lora2_core.layers.importance import importance, nu_for_rank

CPU = torch.device("cpu")


def linear_adapter(m=24, n=40):
    return Adapter("layer", nn.Linear(n, m, bias=False).requires_grad_(False), CPU)


def fill(adapter, rank):
    """Random rows up to `rank`, in B as well, as after some training."""
    count = max(rank - adapter.filled, 0)
    new = (torch.randn(count, adapter.in_features), torch.randn(count, adapter.out_features))
    adapter.set_rank(rank, *(new if count else ()))


def set_nu(adapter, nu):
    adapter.scale = importance(torch.tensor(nu), adapter.rank)


def delta_weight(adapter):
    """ΔW by its effect on unit vectors, not by the adapter's own factors."""
    return adapter.delta(torch.eye(adapter.in_features)).t()


def test_capacity_is_the_smallest_bucket_that_fits():
    assert [capacity_for(r) for r in (1, 8, 9, 64, 65, 512)] == [8, 8, 16, 64, 96, 512]
    assert all(capacity_for(rank + 1) <= max(1.5 * rank, 16) for rank in range(8, 512))


def test_delta_is_b_lambda_a():
    torch.manual_seed(0)
    adapter = linear_adapter()
    fill(adapter, 5)
    set_nu(adapter, 0.4)
    a, b, scale = adapter.a.active, adapter.b.active, adapter.scale
    expected = sum(scale[i] * torch.outer(b[i], a[i]) for i in range(5))
    torch.testing.assert_close(delta_weight(adapter), expected)
    x = torch.randn(2, 7, 40)
    torch.testing.assert_close(adapter.delta(x), x @ expected.t())


@pytest.mark.parametrize("layer", [
    nn.Conv2d(6, 10, 3, stride=2, padding=1),
    nn.Conv2d(6, 10, 1),
    nn.Conv2d(6, 10, 3, padding=2, dilation=2),
])  # fmt: skip
def test_delta_of_a_convolution_is_the_convolution_with_the_product(layer):
    torch.manual_seed(0)
    adapter = Adapter("conv", layer.requires_grad_(False), CPU)
    fill(adapter, 4)
    set_nu(adapter, 0.4)
    kernel = (adapter.b.active.t() @ (adapter.scale[:, None] * adapter.a.active)).view_as(
        layer.weight
    )
    x = torch.randn(2, 6, 9, 9)
    expected = nn.functional.conv2d(x, kernel, None, layer.stride, layer.padding, layer.dilation)
    torch.testing.assert_close(adapter.delta(x), expected, rtol=1e-4, atol=1e-5)
    down, up = adapter.folded()
    folded = (up.flatten(1) @ down.flatten(1)).view_as(layer.weight)
    torch.testing.assert_close(folded, kernel)


def test_folded_factors_give_delta_without_lambda():
    adapter = linear_adapter()
    fill(adapter, 7)
    set_nu(adapter, 0.2)
    down, up = adapter.folded()
    assert down.shape == (7, 40) and up.shape == (24, 7)
    torch.testing.assert_close(up @ down, delta_weight(adapter))
    down.zero_()
    assert delta_weight(adapter).abs().sum() > 0  # a copy, not a view of the rows


def test_growth_with_zero_columns_changes_the_output_only_through_lambda():
    torch.manual_seed(0)
    adapter = linear_adapter()
    fill(adapter, 5)
    set_nu(adapter, nu_for_rank(5))
    before = delta_weight(adapter)
    old_rows = adapter.a.active.detach().clone(), adapter.b.active.detach().clone()
    adapter.set_rank(12, 30 * torch.randn(7, 40), torch.zeros(7, 24))
    set_nu(adapter, nu_for_rank(5))
    assert torch.equal(delta_weight(adapter), before)
    set_nu(adapter, nu_for_rank(12))
    scale = importance(torch.tensor(nu_for_rank(12)), 5)
    expected = old_rows[1].t() @ (scale[:, None] * old_rows[0])
    torch.testing.assert_close(delta_weight(adapter), expected)


@pytest.mark.parametrize("low", [1, 3, 8])
def test_shrinking_then_regrowing_restores_the_update_bit_for_bit(low):
    torch.manual_seed(0)
    adapter = linear_adapter()
    fill(adapter, 11)
    set_nu(adapter, nu_for_rank(11))
    before = delta_weight(adapter)
    adapter.set_rank(low)
    set_nu(adapter, nu_for_rank(low))
    assert not torch.equal(delta_weight(adapter), before)
    adapter.set_rank(11)
    set_nu(adapter, nu_for_rank(11))
    assert torch.equal(delta_weight(adapter), before)


def test_shrinking_leaves_the_dormant_rows_out_of_the_update():
    adapter = linear_adapter()
    fill(adapter, 11)
    adapter.set_rank(3)
    set_nu(adapter, nu_for_rank(3))
    expected = adapter.b.values[:3].t() @ (adapter.scale[:, None] * adapter.a.values[:3])
    torch.testing.assert_close(delta_weight(adapter), expected)


def test_growing_past_a_bucket_keeps_every_row_with_its_state():
    adapter = linear_adapter()
    fill(adapter, 8)
    for rows in (adapter.a, adapter.b):
        rows.exp_avg[:] = torch.randn_like(rows.exp_avg)
        rows.exp_avg_sq[:] = torch.rand_like(rows.exp_avg_sq)
        rows.ages = list(range(8))
    before = [[t.clone() for t in (r.values, r.exp_avg, r.exp_avg_sq)] for r in rows_of(adapter)]
    fill(adapter, 9)
    assert adapter.capacity == 16
    for rows, old in zip(rows_of(adapter), before, strict=True):
        now = (rows.values, rows.exp_avg, rows.exp_avg_sq)
        for new_tensor, old_tensor in zip(now, old, strict=True):
            assert torch.equal(new_tensor[:8], old_tensor)
        assert rows.ages == [*range(8), *[0] * 8]
        assert (rows.exp_avg[8:] == 0).all() and (rows.exp_avg_sq[8:] == 0).all()


def rows_of(adapter):
    return adapter.a, adapter.b


def test_memory_is_given_back_after_patience_and_survivors_keep_their_state():
    adapter = linear_adapter()
    fill(adapter, 32)
    for rows in rows_of(adapter):
        rows.exp_avg[:] = torch.randn_like(rows.exp_avg)
        rows.ages = list(range(32))
    adapter.set_rank(8)
    before = [(r.values[:8].clone(), r.exp_avg[:8].clone()) for r in rows_of(adapter)]
    assert [adapter.give_back(3) for _ in range(5)] == [False, False, False, True, False]
    assert adapter.capacity == 8 and adapter.filled == 8 and adapter.rank == 8
    for rows, (values, exp_avg) in zip(rows_of(adapter), before, strict=True):
        assert torch.equal(rows.values, values) and torch.equal(rows.exp_avg, exp_avg)
        assert rows.ages == list(range(8))
        assert rows.active.data_ptr() == rows.values.data_ptr()


def test_memory_is_kept_while_the_rank_is_above_a_quarter_or_comes_back():
    adapter = linear_adapter()
    fill(adapter, 32)
    adapter.set_rank(9)
    assert not any(adapter.give_back(2) for _ in range(10))
    adapter.set_rank(8)
    assert not any(adapter.give_back(2) for _ in range(2))
    adapter.set_rank(9)
    adapter.give_back(2)
    adapter.set_rank(8)
    assert [adapter.give_back(2) for _ in range(3)] == [False, False, True]


def test_rows_forgotten_with_the_memory_are_drawn_anew():
    adapter = linear_adapter()
    fill(adapter, 32)
    adapter.set_rank(2)
    assert adapter.give_back(0)
    kept = adapter.a.values[:8].clone()
    fresh = torch.full((4, 40), 5.0), torch.full((4, 24), 6.0)
    adapter.set_rank(12, *fresh)
    assert torch.equal(adapter.a.values[:8], kept)
    assert torch.equal(adapter.a.active[8:], fresh[0]) and torch.equal(
        adapter.b.active[8:], fresh[1]
    )
    assert adapter.a.ages[8:] == [0] * 8


def test_no_bucket_is_smaller_than_the_first():
    adapter = linear_adapter()
    fill(adapter, 1)
    assert adapter.capacity == BUCKETS[0]
    assert not any(adapter.give_back(0) for _ in range(3))


@pytest.mark.parametrize("autocast", [True, False])
def test_fp16_forward_stays_finite_with_wide_rows_and_outlier_activations(autocast):
    """At rank 512 A has std 30: cast before Λ is folded in, it would pass 65504."""
    torch.manual_seed(0)
    adapter = linear_adapter(m=640, n=640)
    adapter.set_rank(512, 30 * torch.randn(512, 640), torch.full((512, 640), 1e-3))
    adapter.a.values[0, 3] = 1e5
    set_nu(adapter, nu_for_rank(512))
    x = torch.randn(4, 640)
    x[:, 7] = 3000.0
    assert not torch.isfinite(x.half() @ adapter.a.active.detach().half().t()).all()
    with torch.no_grad(), torch.autocast("cpu", torch.float16, enabled=autocast):
        out = adapter.delta(x if autocast else x.half())
    assert out.dtype == torch.float16 and torch.isfinite(out).all()
    with torch.no_grad():
        exact = x @ (adapter.scale[:, None] * adapter.a.active).t() @ adapter.b.active
    torch.testing.assert_close(out.float(), exact, rtol=0.02, atol=0.02 * float(exact.abs().max()))
