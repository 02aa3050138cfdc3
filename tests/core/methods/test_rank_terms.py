"""The price of ranks, each form against its equation."""

import pytest
import reference
import torch

from lora2_core.methods.rank_terms import rank_penalty, row_penalty


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
