"""An adapter and a model: by name and by shape."""

import pytest
from unet_shapes import KOALA_700M, SDXL, unet_shapes

from lora2_core.errors import LoRA2Error
from lora2_core.files.fit import fit
from lora2_core.files.module_names import kohya_name
from lora2_core.files.stored import Seen, Stored, stored_components


def attention(config) -> dict[str, tuple[int, ...]]:
    """Weight shapes of a real architecture's attention projections, by component name."""
    return {
        kohya_name(key.removesuffix(".weight")): tuple(shape)
        for key, shape in unet_shapes(config).items()
        if ".attn" in key and key.endswith(".weight")
    }


def adapter(shapes) -> list[Stored]:
    return stored_components(
        {f"{name}.lora_down.weight": Seen((2, n), True) for name, (_, n) in shapes.items()}
        | {f"{name}.lora_up.weight": Seen((m, 2), True) for name, (m, _) in shapes.items()}
    )


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


@pytest.mark.parametrize(
    "name", ["lora_te1_text_model_encoder_layers_0_mlp_fc1",
             "text_encoder.text_model.final_layer_norm",
             "base_model.model.text_model.encoder.layers.0.mlp.fc1"]
)  # fmt: skip
def test_text_encoders_layers_are_named_where_clip_is_there_and_has_none(name):
    unet = {"lora_unet_b": (4, 4)}
    listed = adapter(unet | {name: (4, 4)})
    assert str(fit(listed, unet, "x", "y")).endswith(
        "connect clip to apply the text encoders' part"
    )
    found = str(fit(listed, unet | {"lora_te1_text_model_other": (4, 4)}, "x", "y"))
    assert "connect" not in found
    assert f"warning: the model has no layer for '{name}'; left out" in found


def test_what_is_left_out_is_named_and_counted():
    unet = {"lora_unet_b": (4, 4)}
    found = str(fit(adapter(unet | {f"other_{i}": (4, 4) for i in range(5)}), unet, "x", "y"))
    assert "no layer for 'other_0', 'other_1', 'other_2' and 2 more; left out" in found


def test_convolutions_compare_flattened():
    listed = stored_components(
        {
            "c.lora_down.weight": Seen((2, 8, 3, 3), True),
            "c.lora_up.weight": Seen((16, 2, 1, 1), True),
        }
    )
    found = fit(listed, {"c": (16, 72)}, "x", "y")
    assert found.placed == ["c"]
