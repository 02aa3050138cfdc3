"""An adapter and a model: by name and by shape."""

import pytest
import torch
from unet_shapes import KOALA_700M, SDXL, unet_shapes

from lora2_core.adapter_file import Factors
from lora2_core.errors import LoRA2Error
from lora2_core.file_metadata import kohya_name
from lora2_core.fit import fit


def attention(config) -> dict[str, tuple[int, ...]]:
    """Weight shapes of a real architecture's attention projections, by component name."""
    return {
        kohya_name(key.removesuffix(".weight")): tuple(shape)
        for key, shape in unet_shapes(config).items()
        if ".attn" in key and key.endswith(".weight")
    }


def adapter(shapes) -> dict[str, Factors]:
    return {
        name: Factors(torch.empty(2, n, device="meta"), torch.empty(m, 2, device="meta"), 1.0)
        for name, (m, n) in shapes.items()
    }


@pytest.mark.parametrize("config", [SDXL, KOALA_700M])
def test_an_adapter_fits_its_own_model(config):
    shapes = attention(config)
    found = fit(adapter(shapes), shapes, "own.safetensors", "SDXL (EPS)")
    assert str(found) == f"matched {len(shapes)} of {len(shapes)} components"
    assert not found.left_out


@pytest.mark.parametrize(("trained", "loaded"), [(KOALA_700M, SDXL), (SDXL, KOALA_700M)])
def test_another_architecture_is_refused_by_shape(trained, loaded):
    with pytest.raises(LoRA2Error, match="another architecture") as raised:
        fit(adapter(attention(trained)), attention(loaded), "other.safetensors", "SDXL (EPS)")
    assert "other.safetensors" in str(raised.value)
    assert "SDXL (EPS)" in str(raised.value)


def test_nothing_in_common_is_refused():
    with pytest.raises(LoRA2Error, match="none of the 1 components of x fits y"):
        fit(adapter({"lora_unet_a": (4, 4)}), {"lora_unet_b": (4, 4)}, "x", "y")


def test_text_encoders_ask_for_clip():
    text = {"lora_te1_a": (4, 4)}
    with pytest.raises(LoRA2Error, match="connect its clip"):
        fit(adapter(text), {"lora_unet_b": (4, 4)}, "x", "y")
    both = fit(adapter({"lora_unet_b": (4, 4)} | text), {"lora_unet_b": (4, 4)}, "x", "y")
    assert str(both) == "matched 1 of 2 components; connect clip to apply the text encoders' part"


def test_convolutions_compare_flattened():
    factors = Factors(torch.empty(2, 8, 3, 3), torch.empty(16, 2, 1, 1), None)
    found = fit({"c": factors}, {"c": (16, 8, 3, 3)}, "x", "y")
    assert found.placed == ["c"]
