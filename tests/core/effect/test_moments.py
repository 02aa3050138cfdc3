"""What is gathered while a network trains, against every token's x and g one by one."""

import pytest
import reference
import torch
import toy
from torch import nn

from lora2_core.effect.moments import MomentAverage
from lora2_core.layers.adapter import Adapter
from lora2_core.layers.half import half_factors
from lora2_core.layers.inject import attached, create_adapters
from lora2_core.training.checkpointing import blocks_checkpointed

RANK = 3


def rows(adapter, rank=RANK, seed=0):
    generator = torch.Generator().manual_seed(seed)
    adapter.set_rank(
        rank,
        torch.randn(rank, adapter.in_features, generator=generator) / 4,
        torch.randn(rank, adapter.out_features, generator=generator) / 4,
    )


def network(seed=0):
    """(denoiser, adapters with rows)."""
    denoiser = toy.ToyDenoiser()
    adapters = create_adapters(denoiser.network, "attention", 8, torch.device("cpu"))
    for index, adapter in enumerate(adapters):
        rows(adapter, seed=seed + index)
    return denoiser, adapters


def loss(denoiser, seed):
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.randn(2, 4, 4, 4, generator=generator)
    context = torch.randn(2, 5, 12, generator=generator)
    out = denoiser.predict(noisy, torch.tensor([3, 7]), {"context": context})
    return out.square().mean()


def watched(adapters, make_loss):
    """Runs a backward pass; returns x [tokens, n] and g [tokens, m] of every adapter's layer."""
    seen = {}
    handles = []
    for index, adapter in enumerate(adapters):

        def hook(layer, args, output, index=index):
            output.retain_grad()
            seen[index] = args[0].detach(), output

        handles.append(adapter.layer.register_forward_hook(hook))
    make_loss().backward()
    for handle in handles:
        handle.remove()
    return [(x.flatten(0, -2), out.grad.flatten(0, -2)) for x, out in seen.values()]


def naive(adapters, passes, keep):
    """P and Q of each adapter after passes [(x, g) of each adapter], the newest last."""
    found = []
    for index, adapter in enumerate(adapters):
        a, b = (part.detach().double() for part in (adapter.scaled_a(), adapter.b.active))
        p = torch.zeros(RANK, RANK, dtype=torch.float64)
        q = p.clone()
        for step in passes:
            x, g = step[index]
            hidden, gradients = x.double() @ a.t(), g.double() @ b.t()
            count = len(x)
            p = keep * p + count * reference.second_moment(list(gradients))
            q = keep * q + reference.second_moment(list(hidden))
        found.append((p, q))
    return found


def close(found, expected):
    for one, (p, q) in zip(found, expected, strict=True):
        assert torch.allclose(one.p.double(), p, rtol=1e-4, atol=1e-9 * float(p.abs().max()))
        assert torch.allclose(one.q.double(), q, rtol=1e-4, atol=1e-6)


def test_every_token_counts_once():
    denoiser, adapters = network()
    average = MomentAverage(adapters, 1, 4)
    passes = []
    with attached(adapters):
        for step in range(3):
            passes.append(watched(adapters, lambda step=step: loss(denoiser, step)))
            with average.gathering(step):
                loss(denoiser, step).backward()
    close(average.moments(), naive(adapters, passes, 0.75))
    assert average.steps == 3


def test_with_blocks_recomputed_it_is_the_same():
    found = []
    for enabled in (False, True):
        denoiser, adapters = network()
        average = MomentAverage(adapters, 1, 4)
        with attached(adapters), blocks_checkpointed(denoiser.blocks, None, enabled):
            for step in range(2):
                with average.gathering(step):
                    loss(denoiser, step).backward()
        found.append(average.moments())
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.p, other.p) and torch.equal(one.q, other.q)


def test_a_scaled_loss_gives_the_same():
    found = []
    for scale in (1.0, 1024.0):
        denoiser, adapters = network()
        average = MomentAverage(adapters, 1, 4)
        with attached(adapters), average.gathering(0, scale):
            (scale * loss(denoiser, 0)).backward()
        found.append(average.moments())
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one.p, other.p, rtol=1e-5) and torch.equal(one.q, other.q)


def test_batches_that_are_accumulated_add_up():
    denoiser, adapters = network()
    together, apart = MomentAverage(adapters, 1, 4), MomentAverage(adapters, 1, 1e9)
    with attached(adapters):
        with together.gathering(0):
            loss(denoiser, 0).backward()
            loss(denoiser, 1).backward()
        for step in range(2):
            with apart.gathering(step):
                loss(denoiser, step).backward()
    for one, other in zip(together.moments(), apart.moments(), strict=True):
        assert torch.allclose(one.p, other.p, rtol=1e-5) and torch.allclose(one.q, other.q)


def test_half_precision_with_its_padded_rows_is_near():
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        denoiser, adapters = network()
        average = MomentAverage(adapters, 1, 4)
        with attached(adapters), average.gathering(0), half_factors(adapters, dtype):
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                total = loss(denoiser, 0)
            total.backward()
        found.append(average.moments())
    for one, other in zip(*found, strict=True):
        assert other.p.dtype == torch.float32 and other.p.shape == one.p.shape
        for exact, near in zip(one, other, strict=True):
            assert (near - exact).norm() <= 0.05 * exact.norm()


@pytest.mark.parametrize(("stride", "kernel"), [(1, 3), (2, 3), (1, 1)])
def test_convolutions(stride, kernel):
    layer = nn.Conv2d(4, 6, kernel, stride, padding=kernel // 2).requires_grad_(False)
    adapter = Adapter("conv", layer, torch.device("cpu"))
    rows(adapter)
    x = torch.randn(2, 4, 6, 6)
    average = MomentAverage([adapter], 1, 4)
    wanted = torch.randn(layer(x).shape)
    with attached([adapter]), average.gathering(0):
        out = layer(x)
        (out * wanted).sum().backward()
    a = adapter.a.active.detach().view(RANK, 4, kernel, kernel)
    hidden = nn.functional.conv2d(x, a, None, stride, kernel // 2)
    h = hidden.movedim(1, -1).flatten(0, -2)
    p = wanted.movedim(1, -1).flatten(0, -2) @ adapter.b.active.detach().t()
    count = len(h)
    expected = count * reference.second_moment(list(p)), reference.second_moment(list(h))
    close(average.moments(), [expected])


def test_only_the_steps_that_count_are_counted():
    denoiser, adapters = network()
    average = MomentAverage(adapters, 2, 4)
    with attached(adapters):
        for step in range(4):
            with average.gathering(step):
                assert all((adapter.tap is None) == bool(step % 2) for adapter in adapters)
                loss(denoiser, step).backward()
    assert average.steps == 2 and all(adapter.tap is None for adapter in adapters)


def test_ranks_that_move_keep_what_is_known_of_their_rows():
    denoiser, adapters = network()
    average = MomentAverage(adapters, 1, 1e9)

    def step():
        with attached(adapters), average.gathering(0):
            loss(denoiser, 0).backward()

    step()
    before = [one.p.clone() for one in average.moments()]
    for adapter in adapters:
        adapter.set_rank(2)
    assert all(
        torch.equal(one.p, old[:2, :2]) for one, old in zip(average.moments(), before, strict=True)
    )
    for index, adapter in enumerate(adapters):
        generator = torch.Generator().manual_seed(index)
        new = torch.randn(2, adapter.in_features, generator=generator)
        adapter.set_rank(5, new, torch.zeros(2, adapter.out_features))
    step()
    for one in average.moments():
        assert one.p.shape == one.q.shape == (5, 5)
        assert not one.p[3:].any() and one.q[4, 4] > 0


def test_what_is_not_finite_adds_nothing():
    denoiser, adapters = network()
    average = MomentAverage(adapters, 1, 4)
    with attached(adapters), average.gathering(0):
        (loss(denoiser, 0) * torch.inf).backward()
    assert all(torch.isfinite(part).all() for one in average.moments() for part in one)


def test_the_shares_are_of_all_components():
    denoiser, adapters = network()
    average = MomentAverage(adapters, 1, 4)
    assert average.shares() == [0.0] * len(adapters)
    with attached(adapters), average.gathering(0):
        loss(denoiser, 0).backward()
    found = average.shares()
    assert sum(found) == pytest.approx(1) and min(found) > 0


def test_it_goes_on_from_what_it_gave():
    denoiser, adapters = network()
    one, other = MomentAverage(adapters, 1, 4), MomentAverage(adapters, 1, 4)
    with attached(adapters):
        with one.gathering(0):
            loss(denoiser, 0).backward()
        kept = {name: part.clone() for name, part in one.tensors().items()}
        other.restore(kept, one.steps)
        for average in (one, other):
            with average.gathering(1):
                loss(denoiser, 1).backward()
    assert one.steps == other.steps == 2
    for name, part in one.tensors().items():
        assert torch.equal(part, other.tensors()[name])
