"""Which layers are adapted, and that they are left as they were."""

import pytest
import torch
import toy
from torch import nn

from lora2_core.errors import LoRA2Error
from lora2_core.layers.adapter import Adapter
from lora2_core.layers.inject import (
    attached,
    create_adapters,
    cross_attention_layers,
    file_order,
    find_layers,
)

CPU = torch.device("cpu")


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.ModuleList([nn.Module(), nn.Dropout(0.0), nn.Linear(8, 4)])
        self.net[0].proj = nn.Linear(4, 16)


def network():
    """A toy block with the other kinds of layers of a UNet beside it."""
    net = toy.ToyNetwork(blocks=1)
    net.blocks[0].ff = FeedForward()
    net.blocks[0].norm = nn.LayerNorm(16)
    net.conv = nn.Conv2d(4, 8, 3)
    net.depthwise = nn.Conv2d(8, 8, 3, groups=8)
    return net


ATTENTION = [
    f"blocks.0.{attention}.{part}"
    for attention in ("attn1", "attn2")
    for part in ("to_q", "to_k", "to_v", "to_out.0")
]
FF = ["blocks.0.ff.net.0.proj", "blocks.0.ff.net.2"]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("attention", ATTENTION),
        ("attention+feed_forward", [*ATTENTION, *FF]),
        ("all_linear", ["proj_in", *ATTENTION, *FF, "proj_out"]),
        ("all_linear+conv", ["proj_in", *ATTENTION, *FF, "proj_out", "conv"]),
    ],
)
def test_targets_choose_layers_in_the_networks_order(targets, expected):
    net = network()
    found = find_layers(net, targets)
    order = [name for name, _ in net.named_modules() if name in expected]
    assert sorted(expected) == sorted(found) and list(found) == order
    assert all(net.get_submodule(name) is layer for name, layer in found.items())


def test_a_network_without_such_layers_is_refused_by_its_name():
    with pytest.raises(LoRA2Error, match="Sequential has no layer for targets 'attention'"):
        find_layers(nn.Sequential(nn.Linear(3, 3)), "attention")


def test_text_attention_is_found_in_order():
    net = toy.ToyNetwork(blocks=3)
    assert list(cross_attention_layers(net).values()) == [block.attn2 for block in net.blocks]


def test_a_rank_above_a_layers_size_is_refused_with_its_name_and_size():
    with pytest.raises(LoRA2Error, match=r"rank 13 .* blocks.0.attn2.to_k \(16×12\).*at most 12"):
        create_adapters(toy.ToyNetwork(), "attention", 13, CPU)
    assert len(create_adapters(toy.ToyNetwork(), "attention", 12, CPU)) == 16


def test_a_small_convolution_is_no_reason_to_refuse_a_rank():
    net = nn.Sequential(nn.Conv2d(4, 64, 1), nn.Linear(64, 64))
    adapters = create_adapters(net, "all_linear+conv", 32, CPU)
    assert [adapter.max_rank for adapter in adapters] == [4, 64]


def test_attached_adds_the_update_and_takes_it_away_again():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)).requires_grad_(False)
    adapters = [Adapter(str(i), layer, CPU) for i, layer in enumerate(net)]
    for adapter in adapters:
        adapter.set_rank(2, torch.randn(2, adapter.in_features), torch.randn(2, net_out(adapter)))
    x = torch.randn(3, 6)
    before = net(x)
    merged = x
    for adapter in adapters:
        delta = adapter.b.active.t() @ adapter.a.active
        merged = merged @ (adapter.layer.weight + delta).t() + adapter.layer.bias
    with pytest.raises(KeyboardInterrupt), attached(adapters):
        torch.testing.assert_close(net(x), merged)
        raise KeyboardInterrupt
    assert torch.equal(net(x), before)
    assert not any(layer._forward_hooks for layer in net)


def net_out(adapter):
    return adapter.layer.out_features


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_layer_keeps_its_dtype(dtype):
    layer = nn.Linear(6, 5).to(dtype).requires_grad_(False)
    adapter = Adapter("layer", layer, CPU)
    adapter.set_rank(2, torch.randn(2, 6), torch.randn(2, 5))
    with attached([adapter]):
        out = layer(torch.randn(3, 6, dtype=dtype))
    assert out.dtype == dtype
    out.sum().backward()
    assert adapter.a.active.grad.dtype == torch.float32


def test_the_order_of_a_file_counts_numbers_as_numbers():
    names = ["output_blocks.0.1", "input_blocks.10.0", "middle_block.1", "input_blocks.9.1"]
    assert sorted(names, key=file_order) == [
        "input_blocks.9.1", "input_blocks.10.0", "middle_block.1", "output_blocks.0.1"
    ]  # fmt: skip
