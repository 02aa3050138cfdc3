"""The entropy probe and block checkpointing: method.md's property 9."""

import math
from contextlib import ExitStack

import pytest
import reference
import torch
import toy
from peers import two_level_unet
from torch import nn

from lora2_core.layers.inject import cross_attention_layers
from lora2_core.training.checkpointing import blocks_checkpointed
from lora2_core.training.entropy import EntropyProbe, attention_entropy


@pytest.fixture(scope="module")
def unet():
    return two_level_unet().requires_grad_(False)


class Toy:
    """toy.ToyNetwork behind the same few words as the UNet below."""

    def __init__(self):
        denoiser = toy.ToyDenoiser()
        self.network = denoiser.network
        self.blocks = denoiser.blocks
        self.inputs = (torch.randn(2, 4, 4, 4), torch.tensor([3, 8]), torch.randn(2, 77, 12))

    def __call__(self):
        return self.network(*self.inputs)


class Unet:
    def __init__(self, network):
        self.network = network
        kinds = ("BasicTransformerBlock", "ResnetBlock2D")
        self.blocks = [m for m in network.modules() if type(m).__name__ in kinds]
        self.inputs = (torch.randn(2, 4, 8, 8), torch.tensor([3, 800]), torch.randn(2, 77, 24))

    def __call__(self):
        return self.network(*self.inputs).sample


@pytest.fixture(params=["toy", "diffusers"])
def model(request):
    torch.manual_seed(0)
    return Toy() if request.param == "toy" else Unet(request.getfixturevalue("unet"))


def gradients(model, checkpointing, queries=7, scale=1.0, weight=1.0):
    """(mse, entropy, gradient of every weight by name) of one pass."""
    network = model.network.requires_grad_(True)
    probe = EntropyProbe(list(cross_attention_layers(network).values()), queries, seed=3)
    with probe.attached(), blocks_checkpointed(model.blocks, probe, checkpointing):
        probe.begin()
        mse = model().square().mean()
        entropy = probe.mean()
        (scale * (mse + weight * entropy)).backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad(set_to_none=True)
    network.requires_grad_(False)
    return mse.item(), entropy.item(), found


def test_loss_and_every_gradient_are_the_same_bits_with_checkpointing(model):
    plain = gradients(model, checkpointing=False)
    again = gradients(model, checkpointing=True)
    assert plain[:2] == again[:2]
    assert plain[2].keys() == again[2].keys()
    for name, gradient in plain[2].items():
        assert torch.equal(gradient, again[2][name]), name


def test_checkpointing_really_recomputes(model):
    """Guards the test above against a checkpoint that does nothing."""
    calls = []
    with ExitStack() as stack:
        for block in model.blocks:
            hook = block.register_forward_pre_hook(lambda *_: calls.append("outer"))
            stack.callback(hook.remove)
            inner = next(m for m in block.modules() if isinstance(m, nn.Linear | nn.Conv2d))
            hook = inner.register_forward_pre_hook(lambda *_: calls.append("inner"))
            stack.callback(hook.remove)
        gradients(model, checkpointing=True)
    assert calls.count("inner") == 2 * calls.count("outer") == 2 * len(model.blocks)


def test_entropy_of_a_block_without_text_attention_needs_nothing(unet):
    model = Unet(unet)
    assert any(type(block).__name__ == "ResnetBlock2D" for block in model.blocks)
    with blocks_checkpointed(model.blocks, None, True):
        out = model()
    assert torch.equal(out, model())


def test_entropy_gradient_is_invariant_under_the_loss_scale(model):
    plain = gradients(model, checkpointing=True)[2]
    scaled = gradients(model, checkpointing=True, scale=2.0**16)[2]
    for name, gradient in plain.items():
        torch.testing.assert_close(scaled[name] / 2.0**16, gradient, rtol=1e-6, atol=0)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_entropy_reaches_queries_and_keys_of_its_layer_but_not_values_or_outputs(
    model, checkpointing
):
    """Of the layer that runs last: no other entropy comes after its values and its output."""
    network = model.network.requires_grad_(True)
    layers = list(cross_attention_layers(network).values())
    probe = EntropyProbe(layers, 1000, seed=0)
    order = []
    with ExitStack() as stack:
        for layer in layers:
            hook = layer.register_forward_pre_hook(lambda module, _: order.append(module))
            stack.callback(hook.remove)
        stack.enter_context(probe.attached())
        stack.enter_context(blocks_checkpointed(model.blocks, probe, checkpointing))
        probe.begin()
        model()
        last = order[-1]
        probe.mean().backward()
    found = {
        name: 0.0 if layer.weight.grad is None else layer.weight.grad.abs().sum().item()
        for name, layer in last.named_modules()
        if isinstance(layer, nn.Linear)
    }
    network.zero_grad(set_to_none=True)
    network.requires_grad_(False)
    assert found.keys() == {"to_q", "to_k", "to_v", "to_out.0"}
    assert found["to_q"] > 0 and found["to_k"] > 0
    assert found["to_v"] == found["to_out.0"] == 0


def test_every_layer_weighs_the_same_and_equals_the_naive_entropy():
    model = Toy()
    layers = list(cross_attention_layers(model.network).values())
    probe = EntropyProbe(layers, 1000, seed=0)
    seen = []
    with ExitStack() as stack:
        for layer in layers:
            hook = layer.register_forward_pre_hook(lambda m, args: seen.append((m, args)))
            stack.callback(hook.remove)
        stack.enter_context(probe.attached())
        probe.begin()
        model()
    expected = []
    for layer, (x, context) in seen:
        q, k = x @ layer.to_q.weight.t(), context @ layer.to_k.weight.t()
        expected.append(reference.entropy(reference.attention(q, k, k, layer.heads)[1]).item())
    assert len(expected) == 2 and expected[0] != pytest.approx(expected[1], rel=1e-4)
    assert probe.mean().item() == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_the_attention_output_is_untouched_by_the_probe(model):
    before = model()
    probe = EntropyProbe(list(cross_attention_layers(model.network).values()), 4, seed=0)
    with probe.attached(), blocks_checkpointed(model.blocks, probe, True):
        probe.begin()
        assert torch.equal(model(), before)


def test_a_random_subset_of_the_queries_is_unbiased():
    model = Toy()
    layers = list(cross_attention_layers(model.network).values())

    def draws(queries, count):
        probe = EntropyProbe(layers, queries, seed=1)
        values = []
        with torch.no_grad(), probe.attached():
            for _ in range(count):
                probe.begin()
                model()
                values.append(probe.mean().item())
        return torch.tensor(values, dtype=torch.float64)

    exact = draws(1000, 1).item()
    values = draws(4, 400)
    error = values.std().item() / math.sqrt(len(values))
    assert error > 0
    assert abs(values.mean().item() - exact) < 4 * error
    assert error < 0.1 * abs(exact - math.log(77))  # sharp enough to see a bias


@pytest.mark.parametrize("count", [8, 10, 4096])
def test_every_query_is_as_likely_as_any_other(count):
    probe = EntropyProbe([nn.Identity()] * 50, 4, seed=2)
    found = torch.zeros(count)
    for _ in range(300):
        probe.begin()
        found += torch.bincount(probe._draw(count).flatten(), minlength=count)
    expected = 50 * 300 * 4 / count
    error = (found / expected - 1).square().mean().sqrt()
    assert error < 1.5 * expected**-0.5  # as far as chance goes
    assert probe._draw(count).max() < count


def test_probe_and_checkpointing_leave_the_network_as_it_was(model):
    def state():
        hooks = sum(
            len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.network.modules()
        )
        return hooks, [vars(m).get("forward") for m in model.network.modules()]

    before = state()
    probe = EntropyProbe(list(cross_attention_layers(model.network).values()), 4, seed=0)
    with (
        pytest.raises(KeyboardInterrupt),
        probe.attached(),
        blocks_checkpointed(model.blocks, probe, True),
    ):
        assert state() != before
        raise KeyboardInterrupt
    assert state() == before
    assert before[0] == 0


def test_recomputation_sees_the_dicts_of_its_own_call():
    """A host passes one dict down the blocks and changes it on the way."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(2.0))

        def forward(self, x, options=None):
            options["calls"] = options["calls"] + 1
            return torch.sin(x * self.weight * options["index"] * options["calls"])

    def gradient(checkpointing):
        blocks = [Block(), Block()]
        options = {"index": 1, "calls": 0}
        x = torch.tensor(0.7)
        with blocks_checkpointed(blocks, None, checkpointing):
            for index, block in enumerate(blocks):
                options["index"] = index + 1
                options["calls"] = 0
                x = block(x, options=options)
            x.backward()
        return [block.weight.grad.item() for block in blocks]

    assert gradient(True) == gradient(False)


def test_uniform_attention_has_entropy_ln_77():
    query, key = torch.randn(2, 9, 32), torch.ones(2, 77, 32)
    assert attention_entropy(query, key, 4).item() == pytest.approx(math.log(77), abs=1e-5)


@pytest.mark.parametrize("size", [40.0, 3e4])
def test_one_hot_attention_has_entropy_zero_and_a_finite_gradient(size):
    key = torch.eye(8).expand(1, 8, 8).contiguous().requires_grad_()
    query = (size * torch.eye(8)[:3])[None].requires_grad_()
    entropy = attention_entropy(query, key, 1)
    assert 0 <= entropy.item() < 1e-4
    entropy.backward()
    assert torch.isfinite(query.grad).all() and torch.isfinite(key.grad).all()


def test_entropy_equals_the_naive_twin_head_by_head():
    torch.manual_seed(0)
    query = torch.randn(2, 6, 24, dtype=torch.float64)
    key = torch.randn(2, 11, 24, dtype=torch.float64)
    _, logits = reference.attention(query, key, key, heads=3)
    expected = reference.entropy(logits).item()
    assert attention_entropy(query, key, 3).item() == pytest.approx(expected, rel=1e-5)


def test_gradient_of_the_entropy_is_the_finite_difference():
    torch.manual_seed(0)
    query = torch.randn(1, 4, 8, dtype=torch.float64)
    key = torch.randn(1, 7, 8, dtype=torch.float64)

    def naive(q, k):
        return reference.entropy(reference.attention(q, k, k, heads=2)[1])

    leaf_q, leaf_k = query.clone().requires_grad_(), key.clone().requires_grad_()
    attention_entropy(leaf_q, leaf_k, 2).backward()
    step = 1e-6
    for leaf, other in ((leaf_q, "q"), (leaf_k, "k")):
        difference = torch.zeros_like(leaf)
        for index in range(leaf.numel()):
            nudge = torch.zeros_like(leaf).view(-1)
            nudge[index] = step
            nudge = nudge.view_as(leaf)
            if other == "q":
                ends = naive(query + nudge, key), naive(query - nudge, key)
            else:
                ends = naive(query, key + nudge), naive(query, key - nudge)
            difference.view(-1)[index] = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(leaf.grad, difference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_entropy_is_computed_in_fp32_also_under_autocast(dtype):
    """Logits of 4e5 are past fp16: computed in half, they would turn into NaN."""
    query = torch.full((1, 3, 16), 200.0, dtype=dtype)
    key = torch.full((1, 5, 16), 500.0, dtype=dtype)
    with torch.autocast("cpu", dtype):
        entropy = attention_entropy(query, key, 1)
    assert entropy.dtype == torch.float32
    assert entropy.item() == pytest.approx(math.log(5), abs=0.05)
