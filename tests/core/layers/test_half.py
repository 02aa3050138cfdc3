"""Factors in half precision: all at once as each by itself."""

import pytest
import torch
import toy
from torch import nn

from lora2_core.config import TrainConfig
from lora2_core.diffusion.data import Batch
from lora2_core.layers.adapter import Adapter
from lora2_core.layers.half import half_factors
from lora2_core.layers.inject import attached
from lora2_core.training.forward import DTYPES, forward

CPU = torch.device("cpu")


def an_adapter(layer, rank, scaled):
    adapter = Adapter("layer", layer.requires_grad_(False), CPU)
    rows = torch.randn(rank, adapter.in_features), torch.randn(rank, adapter.out_features)
    adapter.set_rank(rank, *rows)
    if scaled:
        adapter.scale = nn.Parameter(torch.rand(rank) + 0.1)
    return adapter


def adapters(scaled):
    torch.manual_seed(0)
    layers = [(nn.Linear(24, 16), 5), (nn.Linear(16, 24), 1), (nn.Conv2d(3, 8, 3), 4)]
    layers += [(nn.Linear(16, 16), 9), (nn.Linear(24, 24), 7)]
    return [an_adapter(layer, rank, scaled) for layer, rank in layers]


def inputs(adapter):
    generator = torch.Generator().manual_seed(7)
    is_linear = len(adapter.in_shape) == 1
    shape = (5, adapter.in_features) if is_linear else (2, adapter.in_shape[0], 6, 6)
    return torch.randn(shape, generator=generator)


def passed(chosen, dtype, together, used):
    """Outputs and gradients of the adapters `used`, factors cast together or one by one."""
    outputs = []
    with half_factors(chosen, dtype if together else torch.float32):
        with torch.autocast("cpu", dtype):
            outputs = [chosen[i].delta(inputs(chosen[i])) for i in used]
        sum(output.float().square().sum() for output in outputs).backward()
    found = [
        (adapter.a.active.grad, adapter.b.active.grad, getattr(adapter.scale, "grad", None))
        for adapter in chosen
    ]
    return outputs, found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scaled", [True, False])
def test_all_at_once_is_each_by_itself(dtype, scaled):
    used = [0, 2, 3, 4]
    outputs, found = passed(adapters(scaled), dtype, True, used)
    expected, gradients = passed(adapters(scaled), dtype, False, used)
    for output, wanted in zip(outputs, expected, strict=True):
        assert output.dtype == dtype and torch.equal(output, wanted)
    for index, (ours, naive) in enumerate(zip(found, gradients, strict=True)):
        if index not in used:
            assert ours == naive == (None, None, None)
            continue
        assert torch.equal(ours[0], naive[0]) and torch.equal(ours[1], naive[1])
        assert (ours[2] is None) == (not scaled)
        if scaled:
            torch.testing.assert_close(ours[2], naive[2], rtol=1e-5, atol=1e-5)


def test_a_fixed_importance_gets_no_gradient():
    chosen = adapters(scaled=True)
    for adapter in chosen:
        adapter.scale = adapter.scale.detach()
    _, found = passed(chosen, torch.bfloat16, True, range(5))
    assert all(a is not None and b is not None and scale is None for a, b, scale in found)


def test_copies_are_gone_afterwards_and_fp32_needs_none():
    chosen = adapters(scaled=True)
    with half_factors(chosen, torch.float32):
        assert all(adapter.half is None for adapter in chosen)
    with pytest.raises(KeyboardInterrupt), half_factors(chosen, torch.bfloat16):
        assert all(adapter.half is not None for adapter in chosen)
        raise KeyboardInterrupt
    assert all(adapter.half is None for adapter in chosen)


class HalfToy(toy.ToyDenoiser):
    """Its network holds and computes in bf16."""

    dtype = torch.bfloat16

    def __init__(self):
        super().__init__()
        self.network.to(self.dtype)

    def predict(self, noisy, t, conditioning):
        return self.network(noisy.to(self.dtype), t, conditioning["context"].to(self.dtype))


def gradients_of(denoiser, dtype):
    """Of all factors, one vector, and whether autocast was on."""
    generator = torch.Generator().manual_seed(3)
    batch = Batch(
        torch.randn(1, 4, 4, 4, generator=generator),
        {"context": torch.randn(1, 5, 12, generator=generator)},
    )
    layers = [m for m in denoiser.network.blocks.modules() if isinstance(m, nn.Linear)]
    torch.manual_seed(1)
    chosen = [an_adapter(layer, 3, scaled=True) for layer in layers]
    for adapter in chosen:
        adapter.b.values.mul_(0.1)
    cast = []
    handle = layers[0].register_forward_pre_hook(
        lambda *_: cast.append(torch.is_autocast_enabled("cpu"))
    )
    config = TrainConfig(dtype=dtype)
    with attached(chosen), half_factors(chosen, DTYPES[dtype]):
        loss, _ = forward(denoiser, batch, config, None, generator, None)
        loss.backward()
    handle.remove()
    parts = [part.grad.flatten() for a in chosen for part in (a.a.active, a.b.active, a.scale)]
    [was_cast] = cast
    return torch.cat(parts), was_cast


def test_autocast_only_where_the_network_does_not_compute_in_that_type_by_itself():
    exact, cast = gradients_of(toy.ToyDenoiser(), "fp32")
    assert not cast
    for denoiser, expected in ((toy.ToyDenoiser(), True), (HalfToy(), False)):
        found, cast = gradients_of(denoiser, "bf16")
        assert cast is expected
        assert (found - exact).norm() < 0.03 * exact.norm()
