"""Numbers near the ends of fp32: the product stays, or the component is named."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import error

from lora2_core.errors import LoRA2Error
from lora2_core.files.adapter_file import LoraState, components, read
from lora2_core.files.writing import write
from lora2_core.rank_tools import Cut, Ingredient, compress, merge, open_adapter
from lora2_core.rank_tools.adapters import factorised
from lora2_core.rank_tools.scaling import scaled
from lora2_core.rank_tools.spectra import Spectra

NAME = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"


def adapter(up=1.0, down=1.0, alpha=4.0, dtype=torch.float32, title="a"):
    generator = torch.Generator().manual_seed(0)
    state = LoraState()
    state[f"{NAME}.lora_down.weight"] = (
        torch.randn(4, 24, generator=generator, dtype=torch.float64) * down
    ).to(dtype)
    state[f"{NAME}.lora_up.weight"] = (
        torch.randn(24, 4, generator=generator, dtype=torch.float64) * up
    ).to(dtype)
    state[f"{NAME}.alpha"] = torch.tensor(alpha, dtype=torch.float64)
    return open_adapter(state, title)


def dense(one):
    state, stored = one.state, one.components[NAME]
    scale = float(state[stored.alpha]) / stored.rank
    return (state[stored.up].double() * scale) @ state[stored.down].double()


def product(state):
    factors = components(state)[NAME]
    return factors.scale * factors.up.double() @ factors.down.double()


exponents = st.integers(-60, 60)


@settings(max_examples=80, deadline=None)
@given(exponents, exponents, st.floats(-1e60, 1e60).filter(lambda x: x == 0 or abs(x) > 1e-60))
def test_the_product_is_that_of_fp64_or_refused(above, beyond, factor):
    generator = torch.Generator().manual_seed(0)
    up = torch.randn(5, 3, generator=generator, dtype=torch.float64) * 10.0**above
    down = torch.randn(3, 4, generator=generator, dtype=torch.float64) * 10.0**beyond
    sizes = [float(t.abs().max()) for t in (up, down)]
    size = math.log2(sizes[0]) + math.log2(sizes[1]) + (math.log2(abs(factor)) if factor else -999)
    try:
        one, other = scaled(up, down, factor, "to_q of a")
    except LoRA2Error as refused:
        assert size > 250 and "to_q of a" in str(refused)
        assert "beyond the range of fp32" in str(refused)
        return
    assert size < 257  # twice 2¹²⁸, and what rounding the sizes' logarithms adds
    assert one.dtype == other.dtype == torch.float32
    if size > -240:
        assert error(one.double() @ other.double(), factor * up @ down) < 1e-6


def test_ordinary_factors_keep_their_bits():
    up, down = torch.randn(5, 3).half(), torch.randn(3, 4).half()
    one, other = scaled(up, down, 0.3, "x")
    assert torch.equal(one, up.float() * 0.3) and torch.equal(other, down.float())


HUGE = [
    {"up": 1e30, "down": 1e30},
    {"up": 1e-30, "down": 1e-30},
    {"up": 1e38, "down": 1e-38},
    {"up": 1e25, "down": 1e-35, "alpha": 1e30},
    {"up": 1e60, "down": 1e-60, "dtype": torch.float64},
    {"up": 1e-44, "down": 1e30, "dtype": torch.float64},
]


@pytest.mark.parametrize("sizes", HUGE)
@pytest.mark.parametrize("cut", [{"rank": 2}, {"energy": 0.9}, {"megabytes": 0.002}])
@pytest.mark.parametrize("how", ["svd", "prefix"])
def test_a_cut_of_huge_and_tiny_factors_is_that_of_their_product(sizes, cut, how):
    one = adapter(**sizes)
    plain = adapter()
    found, expected = compress(one, Cut(how=how, **cut)), compress(plain, Cut(how=how, **cut))
    assert found.rows[0].after == expected.rows[0].after
    assert found.retained == pytest.approx(expected.retained, abs=1e-6)
    scale = dense(one).norm() / dense(plain).norm()
    assert error(product(found.state), scale * product(expected.state)) < 1e-5
    again = compress(factorised(one, how), Cut(how=how, **cut))
    assert error(product(again.state), product(found.state)) < 1e-5


def test_the_spectrum_of_huge_factors():
    one = adapter(up=1e30, down=1e30)
    found = Spectra(one).of(NAME)
    sigma = torch.linalg.svdvals(dense(one))[:4]
    assert torch.allclose(torch.tensor(found.sigma, dtype=torch.float64), sigma, rtol=1e-5)
    assert found.size == pytest.approx(float(dense(one).norm()), rel=1e-6)


def test_a_small_update_beside_an_oddly_shared_one_is_not_lost():
    """Large up and small down beside the opposite: each row counts by what it does."""
    one, other = adapter(1e6, 1e-6), adapter(1e-6, 1e6)
    other.state[f"{NAME}.lora_down.weight"].copy_(
        other.state[f"{NAME}.lora_down.weight"].flip(1).clone()
    )
    found = merge([Ingredient(one), Ingredient(other)], Cut(rank=8))
    assert error(product(found.state), dense(one) + dense(other)) < 1e-5


def test_what_fp32_cannot_hold_is_named_with_its_file():
    with pytest.raises(LoRA2Error, match=rf"{NAME} of big\.safetensors has numbers up to"):
        compress(adapter(1e30, 1e38, alpha=1e35, title="big.safetensors"), Cut(rank=2))
    with pytest.raises(LoRA2Error, match=r"to_q of a .*smaller weight"):
        merge([Ingredient(adapter(1e30, 1e30), 1e30)])


@pytest.mark.parametrize("weight", [1e-6, 1e6, -1e6])
def test_a_weight_takes_no_digits_from_a_file_in_fp16(tmp_path, weight):
    one = adapter(dtype=torch.float16)
    outcome = merge([Ingredient(one, weight)], dtype=torch.float16)
    path = write(outcome.state, tmp_path / "x.safetensors", precision="fp16")
    assert error(product(read(path)), weight * dense(one)) < 1e-3


@pytest.mark.parametrize("tool", ["merge", "compress", "spectra", "load"])
def test_what_has_no_decomposition_is_named(monkeypatch, tool):
    def never(*_, **__):
        raise torch.linalg.LinAlgError("did not converge")

    for name in ("svd", "svdvals", "eigh"):
        monkeypatch.setattr(torch.linalg, name, never)
    one = adapter(title="dog.safetensors")
    work = {
        "merge": lambda: merge([Ingredient(one), Ingredient(one)], Cut(rank=2)),
        "compress": lambda: compress(one, Cut(megabytes=1)),
        "spectra": lambda: Spectra(one).all(),
        "load": lambda: factorised(one, "svd"),
    }
    with pytest.raises(LoRA2Error, match=rf"{NAME} of dog\.safetensors.* no singular value"):
        work[tool]()
