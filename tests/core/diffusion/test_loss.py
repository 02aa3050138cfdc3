"""The three terms of the loss, each against its equation."""

import math

import pytest
import reference
import torch

from lora2_core.diffusion.loss import prediction_loss
from lora2_core.methods.rank_terms import rank_penalty, row_penalty
from lora2_core.training.entropy import attention_entropy


def test_prediction_loss_is_the_mean_square_in_fp32_for_half_inputs():
    prediction = torch.full((2, 3), 300.0, dtype=torch.float16)  # its square is past fp16
    target = torch.zeros(2, 3, dtype=torch.float16)
    loss = prediction_loss(prediction, target)
    assert loss.dtype == torch.float32 and float(loss) == 90_000.0


def test_rank_penalty_is_the_sum_of_distances_and_mean_divides_by_their_number():
    nu = torch.tensor([1.0, 2.0, 5.0], requires_grad=True)
    rank_penalty(nu, 2.0).backward()
    assert rank_penalty(nu, 2.0).item() == 4.0
    assert rank_penalty(nu, 2.0, "mean").item() == pytest.approx(4 / 3)
    assert nu.grad.tolist() == [-1.0, 0.0, 1.0]


def test_row_penalty_is_a_hundredth_of_the_rows_beyond_the_target():
    rows = torch.tensor([1.0, 16.0, 64.0])
    mass = reference.log_mass(0.9)
    nu = (mass / rows).requires_grad_()
    penalty = row_penalty(nu, nu[1].detach())
    assert penalty.item() == pytest.approx((15 + 48) / 100)
    assert row_penalty(nu, nu[1].detach(), "mean").item() == pytest.approx((15 + 48) / 300)
    penalty.backward()
    slopes = [1 / 100 / mass, 0.0, -(64.0**2) / 100 / mass]  # d(L/ν)/dν = −t²/L
    assert nu.grad.tolist() == pytest.approx(slopes)


@pytest.mark.parametrize("rows", [2.0, 7.0, 100.0])
def test_one_more_row_costs_the_same_however_many_there_are(rows):
    mass = reference.log_mass(0.5)
    one, two = (
        row_penalty(torch.tensor([mass / r]), mass / 1.0, quantile=0.5) for r in (rows, rows + 1)
    )
    assert (two - one).item() == pytest.approx(0.01, rel=1e-3)


def test_uniform_attention_has_entropy_ln_77():
    query, key = torch.randn(2, 9, 32), torch.ones(2, 77, 32)
    assert attention_entropy(query, key, 4).item() == pytest.approx(math.log(77), abs=1e-5)


@pytest.mark.parametrize("size", [40.0, 3e4])
def test_one_hot_attention_has_entropy_zero_and_a_finite_gradient(size):
    key = torch.eye(8).expand(1, 8, 8).contiguous().requires_grad_()
    query = (size * torch.eye(8)[:3])[None].requires_grad_()
    entropy = attention_entropy(query, key, 1)
    assert 0 <= entropy.item() < 1e-4
    entropy.backward()
    assert torch.isfinite(query.grad).all() and torch.isfinite(key.grad).all()


def test_entropy_equals_the_naive_twin_head_by_head():
    torch.manual_seed(0)
    query = torch.randn(2, 6, 24, dtype=torch.float64)
    key = torch.randn(2, 11, 24, dtype=torch.float64)
    _, logits = reference.attention(query, key, key, heads=3)
    expected = reference.entropy(logits).item()
    assert attention_entropy(query, key, 3).item() == pytest.approx(expected, rel=1e-5)


def test_gradient_of_the_entropy_is_the_finite_difference():
    torch.manual_seed(0)
    query = torch.randn(1, 4, 8, dtype=torch.float64)
    key = torch.randn(1, 7, 8, dtype=torch.float64)

    def naive(q, k):
        return reference.entropy(reference.attention(q, k, k, heads=2)[1])

    leaf_q, leaf_k = query.clone().requires_grad_(), key.clone().requires_grad_()
    attention_entropy(leaf_q, leaf_k, 2).backward()
    step = 1e-6
    for leaf, other in ((leaf_q, "q"), (leaf_k, "k")):
        difference = torch.zeros_like(leaf)
        for index in range(leaf.numel()):
            nudge = torch.zeros_like(leaf).view(-1)
            nudge[index] = step
            nudge = nudge.view_as(leaf)
            if other == "q":
                ends = naive(query + nudge, key), naive(query - nudge, key)
            else:
                ends = naive(query, key + nudge), naive(query, key - nudge)
            difference.view(-1)[index] = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(leaf.grad, difference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_entropy_is_computed_in_fp32_also_under_autocast(dtype):
    """Logits of 4e5 are past fp16: computed in half, they would turn into NaN."""
    query = torch.full((1, 3, 16), 200.0, dtype=dtype)
    key = torch.full((1, 5, 16), 500.0, dtype=dtype)
    with torch.autocast("cpu", dtype):
        entropy = attention_entropy(query, key, 1)
    assert entropy.dtype == torch.float32
    assert entropy.item() == pytest.approx(math.log(5), abs=0.05)
