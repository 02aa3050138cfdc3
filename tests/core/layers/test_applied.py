"""An adapter put into weights, and taken out again."""

import pytest
import torch
from toy import ToyDenoiser

from lora2_core.errors import LoRA2Error
from lora2_core.layers.applied import applied

LAYER = "toy.blocks.0.attn1.to_q"


def inputs():
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(2, 4, 4, 4, generator=generator)
    context = torch.randn(2, 5, 12, generator=generator)
    return noisy, torch.tensor([3, 7]), {"context": context}


def factors(rank=3):
    generator = torch.Generator().manual_seed(2)
    down = torch.randn(rank, 16, generator=generator)
    return {LAYER: (down, torch.randn(16, rank, generator=generator))}


@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_the_layer_computes_with_its_update(strength):
    denoiser, twin = ToyDenoiser(), ToyDenoiser()
    (down, up) = factors()[LAYER]
    weight = twin.network.blocks[0].attn1.to_q.weight
    weight += strength * (up @ down)
    with applied(denoiser, factors(), strength):
        found = denoiser.predict(*inputs())
    assert torch.allclose(found, twin.predict(*inputs()), atol=1e-5)
    assert not torch.allclose(found, denoiser.predict(*inputs()), atol=1e-3)


def test_the_very_weights_come_back_even_after_an_error():
    denoiser = ToyDenoiser()
    layer = denoiser.network.blocks[0].attn1.to_q
    weight, kept = layer.weight, layer.weight.clone()
    with pytest.raises(ZeroDivisionError), applied(denoiser, factors()):
        assert layer.weight is not weight
        raise ZeroDivisionError
    assert layer.weight is weight and torch.equal(weight, kept)


def test_a_convolution_takes_an_update_of_its_shape():
    denoiser = ToyDenoiser()
    denoiser.network.conv = torch.nn.Conv2d(3, 5, 3)
    down, up = torch.randn(2, 3, 3, 3), torch.randn(5, 2, 1, 1)
    before = denoiser.network.conv.weight.clone()
    with applied(denoiser, {"toy.conv": (down, up)}):
        change = denoiser.network.conv.weight - before
    expected = torch.einsum("mr,rnij->mnij", up[:, :, 0, 0], down)
    assert torch.allclose(change, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "wide", "said"),
    [("toy.blocks.9.attn1.to_q", 16, "not there"), (LAYER, 8, r"is \(16, 16\)")],
)
def test_what_the_network_has_not_is_named_and_nothing_changes(name, wide, said):
    denoiser = ToyDenoiser()
    layer = denoiser.network.blocks[0].attn1.to_q
    weight = layer.weight
    wrong = {name: (torch.zeros(1, wide), torch.zeros(16, 1))}
    with pytest.raises(LoRA2Error, match=said) as caught, applied(denoiser, factors() | wrong):
        pass
    assert name in str(caught.value) and layer.weight is weight
