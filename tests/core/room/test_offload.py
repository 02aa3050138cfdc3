"""Weights that wait in main memory: on the device for their block alone, and the same adapter."""

from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch
import toy
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from toy_runs import BASE, Stop, data, run, same_bits, stop_at

from lora2_core.config import TrainConfig
from lora2_core.diffusion.data import Batch, Example
from lora2_core.errors import LoRA2Error
from lora2_core.layers.half import half_factors
from lora2_core.layers.inject import attached, ordered_adapters
from lora2_core.room.need import OFFLOAD, amount, memory_need, savings
from lora2_core.room.offload import (
    blocks_for,
    brought,
    bytes_on,
    gain,
    spread,
    visiting,
    weights_of,
)
from lora2_core.room.plan import room_for
from lora2_core.room.trace import _Live
from lora2_core.training.forward import entropy_probe, forward, watched
from lora2_core.training.loop import Training
from lora2_core.training.plan import starting_ranks

EXAMPLE = Example(torch.randn(1, 4, 16, 16), {"context": torch.randn(1, 7, 12)})
GPU = torch.device("meta")  # a device other than the CPU, if without numbers


@pytest.fixture(autouse=True)
def no_autocast_there(monkeypatch):
    """Of which torch has none for meta tensors, and raises."""
    asked, autocast = torch.is_autocast_enabled, torch.autocast

    def casting(kind, *args, **more):
        return nullcontext() if kind == GPU.type else autocast(kind, *args, **more)

    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind != GPU.type and asked(kind))
    monkeypatch.setattr(torch, "autocast", casting)


class Normed(nn.Module):
    """A block with a bias, a norm and a buffer, as real ones have."""

    def __init__(self, width=64):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.ff = nn.Linear(width, width)
        self.register_buffer("shift", torch.ones(width))


class OneDevice(TorchDispatchMode):
    """Refuses an operation between devices, copies aside: torch's meta tensors let many pass."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        inputs = [t for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor) and t.ndim]
        if func.overloadpacket not in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            assert len({t.device for t in inputs}) <= 1, func
        return func(*args, **(kwargs or {}))


class Elsewhere(toy.ToyDenoiser):
    """On a device of its own but for the blocks that wait."""

    def __init__(self, waiting, width=64, blocks=4):
        super().__init__(width=width, blocks=blocks)
        self.waiting = [self.blocks[index] for index in waiting]
        kept = [list(block.state_dict().items()) for block in self.waiting]
        self.network.to(GPU)
        self.device = GPU
        for block, weights in zip(self.waiting, kept, strict=True):
            for name, numbers in weights:
                module, _, leaf = name.rpartition(".")
                block.get_submodule(module)._parameters[leaf] = nn.Parameter(numbers, False)


@contextmanager
def prepared(model, config):
    adapters = ordered_adapters(model, config.targets, 4, moments=False)
    for adapter in adapters:
        sizes = adapter.in_features, adapter.out_features
        adapter.set_rank(4, *(torch.zeros(4, size, device=GPU) for size in sizes))
        adapter.scale = nn.Parameter(torch.ones(4, device=GPU))
    with (
        attached(adapters),
        watched(model, config, probe := entropy_probe(model, config)),
        half_factors(adapters, torch.float32),
        visiting(model.waiting, GPU),
    ):
        yield probe


def step_peak(model, config=BASE):
    """Most bytes that a step makes at once on the device, with all operations there."""
    live = _Live()
    batch = Batch(EXAMPLE.latent.to(GPU), {"context": EXAMPLE.conditioning["context"].to(GPU)})
    with prepared(model, config) as probe, OneDevice(), live:
        loss, entropy = forward(model, batch, config, probe, torch.Generator(), None)
        (loss + entropy).backward()
    return live.peak


def devices(block):
    return {tensor.device.type for tensor in block.parameters()}


@pytest.mark.parametrize("waiting", [[1], [0, 3], [0, 1, 2, 3]])
def test_a_step_is_made_on_the_device_and_the_weights_go_back_to_wait(waiting):
    model = Elsewhere(waiting)
    numbers = [[t.clone() for t in block.parameters()] for block in model.waiting]
    step_peak(model)
    for index, block in enumerate(model.blocks):
        assert devices(block) == {"cpu" if index in waiting else "meta"}
    for block, old in zip(model.waiting, numbers, strict=True):
        assert all(map(torch.equal, block.parameters(), old))


def test_a_step_between_devices_would_be_seen():
    model = Elsewhere([1])
    model.waiting = []  # nothing is brought
    with pytest.raises(AssertionError):
        step_peak(model)


def test_no_more_than_one_block_is_on_the_device_beside_those_that_stay():
    size = weights_of(toy.ToyDenoiser(width=64, blocks=4).blocks[0])
    without, with_all = step_peak(Elsewhere([])), step_peak(Elsewhere([0, 1, 2, 3]))
    assert 0 < with_all - without <= size
    # which needs checkpointing: without it autograd holds on to those of all
    config = replace(BASE, gradient_checkpointing=False)
    whole = step_peak(Elsewhere([0, 1, 2, 3]), config) - step_peak(Elsewhere([]), config)
    assert whole > 2 * size


@pytest.mark.parametrize(
    "config",
    [BASE, replace(BASE, method="lora"), replace(BASE, dtype="bf16"), replace(BASE, ema_decay=0.5)],
    ids=["lora2", "lora", "bf16", "ema"],
)
def test_the_adapter_is_the_same_bit_for_bit(config):
    model = toy.ToyDenoiser()
    spread(model.network, model.blocks, model.device)
    with visiting(model.blocks, model.device):
        assert same_bits(run(config, model), run(config))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.network.modules())


def test_pictures_can_be_drawn_while_it_trains():
    """Unwatched, as a preview has the network."""
    model = Elsewhere([0, 2])
    with visiting(model.waiting, GPU), torch.no_grad(), OneDevice():
        noisy, context = torch.empty(1, 4, 4, 4, device=GPU), torch.empty(1, 7, 12, device=GPU)
        out = model.predict(noisy, torch.zeros(1, device=GPU), {"context": context})
    assert out.device == GPU


def test_weights_go_back_when_a_layer_fails():
    model = Elsewhere([0, 1, 2, 3])
    layer = model.blocks[2].attn2.to_v
    layer.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        step_peak(model)
    assert all(devices(block) == {"cpu"} for block in model.blocks)


def test_a_network_is_spread_over_device_and_main_memory():
    network = nn.Sequential(Normed(), Normed()).to(torch.bfloat16).requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    stays, waits = network
    spread(network, [waits], GPU)
    assert {tensor.device for tensor in stays.state_dict().values()} == {GPU}
    for name, tensor in waits.state_dict().items():
        assert torch.equal(tensor, before[f"1.{name}"])
    for part in network:
        assert {type(p) for p in part.parameters()} == {nn.Parameter}
        assert [name for name, _ in part.named_buffers()] == ["shift"]
    seen = []
    waits.norm.register_forward_hook(lambda module, *_: seen.append(module.weight.device))
    with visiting([waits], GPU):
        waits.norm(torch.empty(2, 64, device=GPU, dtype=torch.bfloat16))
    assert seen == [GPU] and waits.norm.weight.device.type == "cpu"
    size = 2 * (64 * 64 + 4 * 64)
    assert weights_of(waits) == bytes_on(network, GPU) == size


def test_a_device_without_room_is_said():
    class Full(torch.Tensor):
        def detach(self):
            return self

        def to(self, *_):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(LoRA2Error, match="does not fit into the GPU's memory"):
        brought(torch.ones(1).as_subclass(Full), GPU)


def test_as_few_blocks_wait_as_it_takes():
    blocks = [nn.Linear(size, size, bias=False) for size in (8, 32, 16, 32)]
    sizes = [weights_of(block) for block in blocks]
    assert sizes == [4 * n * n for n in (8, 32, 16, 32)]
    assert blocks_for(blocks, 0) == [] == blocks_for([], 5)
    assert blocks_for(blocks, 1) == [blocks[1], blocks[3]]  # one of them is on a visit
    assert blocks_for(blocks, sizes[1]) == [blocks[1], blocks[3]]
    assert blocks_for(blocks, sizes[1] + 1) == [blocks[1], blocks[3], blocks[2]]
    assert len(blocks_for(blocks, 10**9)) == 4
    assert gain(blocks) == sum(sizes) - max(sizes) and gain([]) == 0


def room(free, config=BASE):
    model = toy.ToyDenoiser(width=64, blocks=6)
    starts = starting_ranks(model, config)
    need = memory_need(model, [EXAMPLE], config, starts)
    return room_for(model, config, [EXAMPLE], starts, free(need)), model, need


def test_what_fits_stays_and_what_does_not_waits():
    plenty, model, need = room(lambda need: int(1.09 * need.total))
    assert plenty.waiting == [] and not plenty.short
    assert plenty.words == f"needs {need}; {amount(int(1.09 * need.total))} there"
    size = weights_of(model.blocks[0])
    tight, model, need = room(lambda need: int(1.08 * need.total) - size // 2)
    assert len(tight.waiting) == 2 and not tight.short
    tighter, model, need = room(lambda need: int(1.08 * need.total) - 3 * size - 1)
    assert len(tighter.waiting) == 5 and not tighter.short
    assert "of it wait in main memory" in tighter.words
    none, model, need = room(lambda need: need.total // 2)
    assert len(none.waiting) == 6 and none.short


def test_offload_is_a_choice():
    def scarce(need):
        return need.total // 2

    assert room(scarce, replace(BASE, offload="none"))[0].waiting == []
    assert room(scarce, replace(BASE, offload="none"))[0].short
    everything, model, _ = room(lambda need: 2 * need.total, replace(BASE, offload="all"))
    assert everything.waiting == model.blocks and not everything.short
    assert room(scarce, replace(BASE, gradient_checkpointing=False))[0].waiting == []
    # main memory itself
    assert room_for(model, BASE, [EXAMPLE], [4] * 48, None).waiting == []
    with pytest.raises(LoRA2Error, match="'all', but gradient_checkpointing is off"):
        TrainConfig(offload="all", gradient_checkpointing=False)
    with pytest.raises(LoRA2Error, match="offload is 'half'; choose one of auto, none, all"):
        TrainConfig(offload="half")


def test_what_cannot_be_estimated_is_left_alone(monkeypatch):
    def fails(*_):
        raise RuntimeError("no shapes")

    monkeypatch.setattr("lora2_core.room.plan.memory_need", fails)
    model = toy.ToyDenoiser()
    told = room_for(model, BASE, [EXAMPLE], [4] * 16, 0)
    assert told.waiting == [] and not told.short
    assert told.words == "cannot tell how much memory this network needs (no shapes)"
    config = replace(BASE, offload="all")
    assert room_for(model, config, [EXAMPLE], [4] * 16, 0).waiting == model.blocks


def advised(model, config=BASE):
    with visiting(getattr(model, "waiting", []), model.device):
        return dict(savings(model, [EXAMPLE], config, [4] * 32))


def test_it_is_advised_where_it_helps():
    assert advised(Elsewhere([]))[OFFLOAD] == gain(Elsewhere([]).blocks)
    half = Elsewhere([0, 1])
    assert advised(half)[OFFLOAD] == gain(half.blocks[:3])
    assert OFFLOAD not in advised(Elsewhere([0, 1, 2, 3]))
    assert OFFLOAD not in advised(toy.ToyDenoiser(width=64, blocks=4))
    config = replace(BASE, gradient_checkpointing=False)
    assert OFFLOAD not in advised(Elsewhere([]), config)


def test_a_run_goes_on_with_another_choice():
    begun = Training(toy.ToyDenoiser(), data(), BASE)
    with pytest.raises(Stop):
        begun.run(stop_at(4, Stop()))
    model = toy.ToyDenoiser()
    spread(model.network, model.blocks, model.device)
    again = Training(model, data(), replace(BASE, offload="all"))
    again.restore(begun.state())
    with visiting(model.blocks, model.device):
        assert same_bits(again.run(), run())
