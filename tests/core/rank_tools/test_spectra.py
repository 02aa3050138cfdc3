"""Singular values of an adapter's components."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lora2_core.files.adapter_file import LoraState, components
from lora2_core.files.writing import write
from lora2_core.rank_tools import open_adapter
from lora2_core.rank_tools.spectra import Spectra

NAMES = ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "lora_unet_b")


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    found = LoraState()
    for name, rank in zip(NAMES, (3, 12), strict=True):
        found[f"{name}.lora_A.weight"] = torch.randn(rank, 10, generator=generator)
        found[f"{name}.lora_B.weight"] = torch.randn(14, rank, generator=generator)
        found[f"{name}.alpha"] = torch.tensor(2.0)
    return found


def test_they_are_those_of_the_dense_update(state):
    spectra = Spectra(open_adapter(state))
    assert tuple(spectra.names) == NAMES
    for name, factors in components(state).items():
        expected = torch.linalg.svdvals(factors.delta())
        found = spectra.of(name)
        torch.testing.assert_close(
            torch.tensor(found.sigma), expected[: len(found.sigma)], rtol=1e-4, atol=1e-5
        )
        assert found.alpha == 2.0
        assert found.size == pytest.approx(float(factors.delta().norm()), rel=1e-5)
        energy = expected.square().cumsum(0) / expected.square().sum()
        assert energy[found.rank90 - 1] >= 0.9 and energy[found.rank99 - 1] >= 0.99
        assert found.rank90 == 1 or energy[found.rank90 - 2] < 0.9


def test_all_at_once_and_from_several_threads(state, tmp_path):
    renamed = LoraState({k.replace("unet.", "lora_unet_"): t for k, t in state.items()})
    kohya = LoraState(
        {k.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): t
         for k, t in renamed.items()}
    )  # fmt: skip
    spectra = Spectra(open_adapter(write(kohya, tmp_path / "x.safetensors", precision="fp32")))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: spectra.all(), range(4)))
    assert all(one == found[0] for one in found)
    assert found[0] == {name: spectra.of(name) for name in spectra.names}


def test_a_name_that_is_not_there():
    state = LoraState({"x.lora_A.weight": torch.ones(1, 2), "x.lora_B.weight": torch.ones(2, 1)})
    with pytest.raises(KeyError):
        Spectra(open_adapter(state)).of("y")
