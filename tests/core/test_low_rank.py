"""Algebra of low-rank updates against the dense matrix."""

import pytest
import torch

from lora2_core.low_rank import energy_rank, product_svd


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
