"""An expanded adapter in a file: the bits that one alpha for all leaves as they were."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import error

from lora2_core.errors import LoRA2Error
from lora2_core.files.adapter_file import LoraState, components, read
from lora2_core.files.writing import write
from lora2_core.rank_tools import expand, open_adapter

STEM = "lora_unet_input_blocks_4_1_transformer_blocks_{}_attn1_to_q"


def adapter(ranks, alphas, dtype=torch.float16):
    """alphas: one each, 0 for none in the file."""
    generator = torch.Generator().manual_seed(0)
    state = LoraState()
    for block, (rank, alpha) in enumerate(zip(ranks, alphas, strict=True)):
        name = STEM.format(block)
        state[f"{name}.lora_down.weight"] = torch.randn(rank, 24, generator=generator).to(dtype)
        state[f"{name}.lora_up.weight"] = torch.randn(24, rank, generator=generator).to(dtype)
        if alpha:
            state[f"{name}.alpha"] = torch.tensor(float(alpha))
    return state


def saved(state, folder, rank, precision):
    return read(
        write(expand(open_adapter(state), rank), folder / "x.safetensors",
              precision=precision, overwrite=True)
    )  # fmt: skip


def dense(factors):
    """In fractions of fp64, which no order of adding changes: fp16 numbers are exact in it."""
    return factors.scale * (factors.up.double() @ factors.down.double())


def odd_part(number):
    """Without its sign and its powers of two."""
    up, down = abs(number.numerator), number.denominator
    return Fraction(up // (up & -up), down // (down & -down))


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(
        st.tuples(st.integers(1, 12), st.sampled_from([0, 1, 2, 3, 4, 8, 0.5, -1, 12, 16])),
        min_size=1, max_size=7,
    ),
    more=st.integers(0, 8),
    precision=st.sampled_from(["fp16", "fp32"]),
)  # fmt: skip
def test_as_many_factors_as_one_alpha_can_keep_their_bits(tmp_path_factory, pairs, more, precision):
    ranks, alphas = zip(*pairs, strict=True)
    rank = max(ranks) + more
    state = adapter(ranks, alphas)
    found = saved(state, tmp_path_factory.mktemp("x"), rank, precision)
    assert len({factors.alpha for factors in components(found).values()}) == 1
    kept = 0
    for name, factors in components(found).items():
        source = components(state)[name]
        r = source.rank
        assert torch.equal(factors.down[:r].float(), source.down.float())
        assert factors.rank == rank and not factors.up[:, r:].any() and not factors.down[r:].any()
        ratio = source.scale / factors.scale
        power = math.copysign(2.0 ** round(math.log2(abs(ratio))), ratio)
        if abs(ratio / power - 1) < 1e-6:  # 16/3, say, is rounded as an alpha, and no factor is
            kept += 1
            assert torch.equal(factors.up[:, :r].double(), source.up.double() * power)
        if ratio == power:
            assert torch.equal(dense(factors), dense(source))
        limit = 1e-3 if precision == "fp16" else 2e-7
        assert error(dense(factors), dense(source)) < limit
    kinds = [odd_part(Fraction(alpha or r) / r) for r, alpha in pairs]
    assert kept == max(map(kinds.count, kinds))


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_our_own_files_keep_the_update_to_the_bit(tmp_path, precision):
    state = adapter((1, 2, 4, 8, 16, 3), (1, 1, 1, 1, 1, 1))
    found = components(saved(state, tmp_path, None, precision))
    for name, factors in list(found.items())[:5]:
        assert torch.equal(factors.delta(), components(state)[name].delta())
    odd = STEM.format(5)
    limit = 5e-4 if precision == "fp16" else 1e-7
    assert error(found[odd].delta(), components(state)[odd].delta()) < limit


def test_alphas_of_0_and_below(tmp_path):
    state = adapter((2, 2, 4), (4, -8, 1))
    state[f"{STEM.format(2)}.alpha"] = torch.tensor(0.0)
    found = saved(state, tmp_path, 4, "fp32")
    for name, factors in components(found).items():
        assert torch.equal(factors.delta(), components(state)[name].delta())


def test_another_models_names_are_rounded_once(tmp_path):
    name = "transformer.single_transformer_blocks.0.attn.to_q"
    state = LoraState()
    state[f"{name}.lora_A.weight"] = torch.randn(3, 24).half()
    state[f"{name}.lora_B.weight"] = torch.randn(24, 3).half()
    state[f"{name}.alpha"] = torch.tensor(1.0)
    found = saved(state, tmp_path, 8, "fp32")
    assert error(components(found)[name].delta(), components(state)[name].delta()) < 1e-6


def test_an_alpha_that_grows_beyond_fp32_is_named():
    state = adapter((1, 4), (3e38, 1))
    with pytest.raises(LoRA2Error, match=rf"{STEM.format(0)} of dog .* range of fp32"):
        dict(expand(open_adapter(state, "dog"), 8))
