"""A share of the energy, against the dense matrix."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import share_rank as naive

from lora2_core.files.adapter_file import LoraState
from lora2_core.rank_tools import Cut, compress, open_adapter
from lora2_core.rank_tools.cut import share_rank
from lora2_core.rank_tools.spectra import Spectra

NAME = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
ROUNDING = 4 * 2**-23


def of_energies(energies, seed, m=12, n=9, mix=0.0):
    """(up, down) in fp32 of ΔW with these σ², in random bases; mix: how oddly they share it."""
    generator = torch.Generator().manual_seed(seed)

    def basis(size):
        drawn = torch.randn(size, len(energies), generator=generator, dtype=torch.float64)
        return torch.linalg.qr(drawn).Q

    root = torch.tensor(energies, dtype=torch.float64).sqrt().sqrt()
    turned = basis(len(energies)) * 10 ** torch.linspace(0, mix, len(energies))
    up, down = basis(m) * root @ turned, torch.linalg.inv(turned) @ (basis(n) * root).t()
    return up.float(), down.float()


def adapter(up, down, dtype=torch.float32):
    state = LoraState()
    state[f"{NAME}.lora_down.weight"], state[f"{NAME}.lora_up.weight"] = (
        down.to(dtype),
        up.to(dtype),
    )
    return open_adapter(state, "a")


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**30), mix=st.floats(0, 2))
def test_a_share_that_one_row_holds_takes_one_row(seed, mix):
    """9 of 10: whatever the basis, σ in fp32 says a little more or a little less."""
    one = adapter(*of_energies([9, 0.5, 0.5], seed, mix=mix))
    [row] = compress(one, Cut(energy=0.9)).rows
    assert row.after == 1 and row.retained == pytest.approx(0.9, abs=1e-6)
    found = Spectra(one).of(NAME)
    assert (found.rank90, found.rank99) == (1, 3)


@settings(max_examples=100, deadline=None)
@given(
    energies=st.lists(st.integers(1, 8), min_size=1, max_size=9),
    kept=st.integers(1, 9),
    seed=st.integers(0, 2**30),
)
def test_a_share_at_the_edge_of_any_spectrum_is_held_by_the_rows_that_hold_it(energies, kept, seed):
    energies, kept = sorted(energies, reverse=True), min(kept, len(energies))
    share = sum(energies[:kept]) / sum(energies)
    up, down = of_energies(energies, seed)
    [row] = compress(adapter(up, down), Cut(energy=share)).rows
    assert row.after == kept == naive(up, down, share)


@settings(max_examples=100, deadline=None)
@given(
    energies=st.lists(st.floats(1e-9, 1), min_size=1, max_size=9),
    share=st.floats(0.01, 1),
    seed=st.integers(0, 2**30),
    mix=st.floats(0, 1),
)
def test_any_share_is_that_of_the_twin(energies, share, seed, mix):
    up, down = of_energies(energies, seed, mix=mix)
    [row] = compress(adapter(up, down), Cut(energy=share)).rows
    # a share that lies within the rounding of an edge may fall to either side of it
    slack = 8 * ROUNDING * len(energies)
    between = {naive(up, down, min(1, max(0.0, share + move))) for move in (-slack, 0, slack)}
    assert min(between) <= row.after <= max(between)


def test_all_of_the_energy_is_all_but_rounding():
    energies = torch.tensor([1.0, 1e-6, 1e-10, 1e-14], dtype=torch.float64)
    assert share_rank(energies, 1.0) == 3
    assert share_rank(energies, 1 - 1e-11) == 3
    assert share_rank(energies, 1 - 2e-10) == 2
    assert share_rank(energies, 0.5) == share_rank(torch.zeros(4).double(), 0.9) == 1


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_the_tolerance_is_less_than_a_millionth_of_the_sum(share):
    for short, expected in ((5e-7, 2), (1e-8, 1)):
        held = share - short
        energies = torch.tensor([held, 1 - held], dtype=torch.float64)
        tolerance = 2 * math.sqrt(1 - share) * ROUNDING
        assert share_rank(energies, share) == (1 if short < tolerance else expected)


def test_a_prefix_counts_what_it_leaves_out():
    """Its rows are not at right angles: the second takes back what the first did."""
    up = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]])
    down = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    [row] = compress(adapter(up, down), Cut(energy=0.5, how="prefix")).rows
    assert row.after == 3 and row.energy == pytest.approx(4.0)
    [row] = compress(adapter(up[:, :2], down[:2]), Cut(energy=0.5, how="prefix")).rows
    assert row.energy == 0 and row.retained == 1.0
