"""Adapters that LyCORIS itself makes, read as the updates that it applies."""

import pytest
import torch
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from torch import nn

from lora2_core.files.adapter_file import components

NAME = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
LAYERS = {
    "linear": lambda: nn.Linear(24, 32, bias=False),
    "convolution": lambda: nn.Conv2d(12, 16, 3, padding=1, bias=False),
}


INPUTS = {"linear": (7, 24), "convolution": (2, 12, 6, 6)}


def made(kind, layer, x, **settings):
    """(its file's tensors, what LyCORIS adds to the layer's output)."""
    with torch.no_grad():
        before = layer(x)
        module = kind(NAME, layer, 1.0, lora_dim=4, alpha=2.0, **settings)
        for parameter in module.parameters():  # some start at zero
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
        module.apply_to()
        added = layer(x) - before
    state = {f"{NAME}.{key}": part.detach() for key, part in module.state_dict().items()}
    return state, added.detach()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (LoConModule, {}),
        (LoConModule, {"use_tucker": True}),
        (LohaModule, {}),
        (LohaModule, {"use_tucker": True}),
        (LokrModule, {"factor": 4}),
        (LokrModule, {"factor": 4, "decompose_both": True}),
        (LokrModule, {"factor": 4, "use_tucker": True}),
        (LokrModule, {"factor": 4, "full_matrix": True}),
    ],
)
def test_what_lycoris_writes_is_what_it_applies(layer, kind, settings):
    x = torch.randn(INPUTS[layer])
    state, added = made(kind, LAYERS[layer](), x, **settings)
    [found] = components(state).values()
    plain = LAYERS[layer]().requires_grad_(False)
    plain.weight.copy_(found.delta().view_as(plain.weight))
    size = float(added.norm())
    assert size > 0
    assert float((plain(x) - added).norm()) <= 1e-5 * size
