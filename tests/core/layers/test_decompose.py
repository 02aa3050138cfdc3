"""Singular values where LAPACK gives up, and where numbers are near the ends of fp32."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.linalg import LinAlgError

from lora2_core.layers.decompose import decompose, shifted, singular
from lora2_core.layers.low_rank import moderate, rounding, singular_values


def failing(monkeypatch, name, dtypes):
    """torch.linalg's function does not converge for these dtypes."""
    original = getattr(torch.linalg, name)

    def stub(matrix, *more, **named):
        if matrix.dtype in dtypes:
            raise LinAlgError("did not converge")
        return original(matrix, *more, **named)

    monkeypatch.setattr(torch.linalg, name, stub)


HALVES = ((torch.float32,), (torch.float32, torch.float64))


@pytest.mark.parametrize("dtypes", HALVES)
@pytest.mark.parametrize("shape", [(7, 7), (9, 4), (4, 9), (1, 1)])
def test_what_does_not_converge_is_found_in_another_way(monkeypatch, dtypes, shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    matrix[-1] = matrix[0]  # a singular value of 0
    expected = torch.linalg.svdvals(matrix.double())
    failing(monkeypatch, "svd", dtypes)
    failing(monkeypatch, "svdvals", dtypes)
    u, sigma, vt = decompose(matrix)
    assert u.dtype == sigma.dtype == torch.float32
    assert torch.allclose(sigma.double(), expected, atol=1e-6)
    assert torch.allclose(singular(matrix).double(), expected, atol=1e-6)
    assert torch.allclose((u * sigma) @ vt, matrix, atol=1e-5)
    there = sigma > 1e-5
    assert torch.allclose(u.t()[there] @ u[:, there], torch.eye(int(there.sum())), atol=1e-5)
    assert torch.allclose(vt[there] @ vt.t()[:, there], torch.eye(int(there.sum())), atol=1e-5)


def test_what_no_way_finds_is_an_error(monkeypatch):
    for name in ("svd", "svdvals", "eigh"):
        failing(monkeypatch, name, (torch.float32, torch.float64))
    with pytest.raises(LinAlgError):
        singular(torch.ones(2, 3))
    monkeypatch.undo()
    with pytest.raises(LinAlgError):
        decompose(torch.tensor([[torch.nan]]))


@pytest.mark.parametrize("exponent", [-200, -149, -3, 0, 7, 127])
def test_powers_beyond_one_number_of_fp32(exponent):
    tensor = torch.tensor([1.0, 1.5])
    expected = (tensor.double() * 2.0**exponent).float()
    assert torch.equal(shifted(tensor, exponent), expected)


sizes = st.floats(-35, 35)


@settings(max_examples=60, deadline=None)
@given(
    above=st.lists(sizes, min_size=5, max_size=5), beyond=st.lists(sizes, min_size=5, max_size=5)
)
def test_moderate_factors_are_the_same_product_and_near_one(above, beyond):
    generator = torch.Generator().manual_seed(0)
    up = torch.randn(8, 5, generator=generator) * 10 ** torch.tensor(above)
    down = torch.randn(5, 6, generator=generator) * 10 ** torch.tensor(beyond)[:, None]
    small, other, exponent = moderate(up, down)
    assert exponent % 2 == 0
    expected = torch.einsum("mr,rn->rmn", up.double(), down.double())
    found = torch.einsum("mr,rn->rmn", small.double(), other.double()) * 2.0**exponent
    largest = expected.abs().max()
    assert (found - expected).abs().max() <= 1e-13 * largest
    assert small.abs().max() < 2.0**33 and other.abs().max() < 2.0**33
    sigma = torch.linalg.svdvals(expected.sum(0))[:5]
    assert (singular_values(up, down) - sigma).abs().max() <= rounding(up, down)


def test_ordinary_factors_stay_as_they_are():
    up, down = torch.randn(20, 6), torch.randn(6, 15)
    one, other, exponent = moderate(up, down)
    assert one.data_ptr() == up.data_ptr() and other.data_ptr() == down.data_ptr()
    assert exponent == 0
