"""AC-LoRA: the share of signal, what a restart keeps, and its guards (arXiv 2504.02231)."""

import logging

import pytest
import torch
from torch import nn

from lora2_core.config import TrainConfig
from lora2_core.layers.inject import create_adapters
from lora2_core.layers.low_rank import energy_rank, product_svd
from lora2_core.methods.ac_lora import ACLoRA, paper_rank, signal_share, with_noise
from lora2_core.optimizers.adamw import RowAdamW

CPU = torch.device("cpu")


def start(rank=8, b=None, steps=100, **settings):
    """(method, adapter, optimiser, generator); b: [rank, 40] or None for random."""
    net = nn.Module()
    net.layer = nn.Linear(24, 40, bias=False).requires_grad_(False)
    config = TrainConfig(method="ac_lora", r_init=rank, steps=steps, **settings)
    adapters = create_adapters(net, "all_linear", rank, CPU)
    method = ACLoRA(config, adapters)
    generator = torch.Generator().manual_seed(0)
    method.start(generator)
    with torch.no_grad():
        adapters[0].b.active.copy_(torch.randn(rank, 40, generator=generator) if b is None else b)
    optimizer = RowAdamW(
        adapters, None, learning_rate=1e-3, rho_learning_rate=0.0, weight_decay=0.0
    )
    return method, adapters[0], optimizer, generator


def delta(adapter):
    return adapter.b.active.detach().double().t() @ adapter.a.active.detach().double()


def run_to(method, optimizer, generator, steps, loss=0.1):
    for step in range(steps):
        method.after_step(optimizer, generator, step, loss)


def test_the_share_follows_the_mean_loss_and_the_time():
    """p = 1 − L^{e/(T−1)+1}: 1 − L at the start, 1 − L² at the end."""
    assert signal_share(0.2, 0, 100) == pytest.approx(0.8)
    assert signal_share(0.2, 99, 100) == pytest.approx(1 - 0.2**2)
    assert signal_share(0.2, 33, 100) == pytest.approx(1 - 0.2 ** (33 / 99 + 1))


@pytest.mark.parametrize("loss", [1.2, 1.0, 0.9])
def test_a_large_loss_leaves_half_the_energy_and_a_warning(loss, caplog):
    with caplog.at_level(logging.WARNING):
        assert signal_share(loss, 0, 100) == 0.5
    assert f"{loss:.3g}" in caplog.text and "0.5" in caplog.text


def test_the_mean_loss_is_taken_since_the_last_restart(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "lora2_core.methods.ac_lora.signal_share",
        lambda loss, step, steps: seen.append((round(loss, 6), step)) or 0.9,
    )
    method, _, optimizer, generator = start(steps=40, ac_period=0.25)
    for step in range(40):
        method.after_step(optimizer, generator, step, float(step))
    # no restart within the last period; the last entry is the cut of the finished file
    assert seen == [(4.5, 9), (14.5, 19), (24.5, 29), (34.5, 39)]


@pytest.mark.parametrize("share", [0.5, 0.8, 0.99])
def test_a_restart_keeps_the_share_of_the_energy_and_the_product(share, monkeypatch):
    """Product mode: the error is at most √(1−p)·‖BA‖, and new rows do not show."""
    monkeypatch.setattr("lora2_core.methods.ac_lora.signal_share", lambda *_: share)
    method, adapter, optimizer, generator = start()
    before = delta(adapter)
    run_to(method, optimizer, generator, 10)
    after = delta(adapter)
    error = torch.linalg.norm(after - before)
    assert error <= (1 - share) ** 0.5 * torch.linalg.norm(before) * (1 + 1e-5)
    (rank,) = method.ranks()
    u, sigma, vt = torch.linalg.svd(before)
    best = (u[:, :rank] * sigma[:rank]) @ vt[:rank]
    assert torch.allclose(after, best, atol=1e-5)
    kept = sigma.square().cumsum(0) / sigma.square().sum()
    assert kept[rank - 1] >= share - 1e-6 and (rank == 1 or kept[rank - 2] < share + 1e-6)
    assert adapter.rank == 8 and (adapter.b.active[rank:] == 0).all()
    assert (adapter.a.active[rank:] != 0).all()


def test_product_mode_does_not_depend_on_the_gauge_and_paper_mode_does(monkeypatch):
    """B → Bg⁻¹, A → gA is the same ΔW."""
    monkeypatch.setattr("lora2_core.methods.ac_lora.signal_share", lambda *_: 0.7)
    found = {}
    for mode in ("product", "paper"):
        for gauge in (torch.eye(8), torch.diag(torch.logspace(-1, 1, 8))):
            method, adapter, optimizer, generator = start(ac_mode=mode)
            with torch.no_grad():
                adapter.a.active.copy_(gauge @ adapter.a.active)
                adapter.b.active.copy_(torch.linalg.inv(gauge) @ adapter.b.active)
            run_to(method, optimizer, generator, 10)
            found.setdefault(mode, []).append((method.ranks(), delta(adapter)))
    (ranks, one), (others, other) = found["product"]
    assert ranks == others and torch.allclose(one, other, atol=1e-5)
    assert found["paper"][0][0] != found["paper"][1][0]


def test_noise_keeps_the_expected_squared_norm():
    """E‖M'‖² = ‖M‖² in paper mode, whatever is cut."""
    generator = torch.Generator().manual_seed(1)
    factor = torch.randn(16, 64, generator=generator)
    for rank in (1, 4, 12):
        norms = [with_noise(factor, rank, generator).square().sum() for _ in range(400)]
        assert torch.stack(norms).mean().item() == pytest.approx(
            factor.square().sum().item(), rel=0.02
        )
    assert torch.allclose(with_noise(factor, 16, generator), factor, atol=1e-5)


def test_a_dominated_spectrum_keeps_its_one_direction():
    """Read literally, I would be 0 and the signal would be replaced by noise."""
    sigma = torch.tensor([100.0, 1e-3, 1e-3])
    assert paper_rank(sigma, 0.9) == 1 and energy_rank(sigma, 0.9) == 1


def test_paper_mode_keeps_the_larger_rank_of_both_factors(monkeypatch):
    monkeypatch.setattr("lora2_core.methods.ac_lora.signal_share", lambda *_: 0.9)
    method, adapter, optimizer, generator = start(ac_mode="paper")
    shares = [torch.linalg.svdvals(f.active.detach()) for f in (adapter.a, adapter.b)]
    run_to(method, optimizer, generator, 10)
    assert method.ranks() == [max(paper_rank(sigma, 0.9) for sigma in shares)]


@pytest.mark.parametrize("mode", ["product", "paper"])
def test_a_component_that_has_learned_nothing_is_left_alone(mode):
    method, adapter, optimizer, generator = start(b=torch.zeros(8, 40), ac_mode=mode)
    rows = adapter.a.active.detach().clone()
    run_to(method, optimizer, generator, 50)
    assert torch.equal(adapter.a.active, rows) and (adapter.b.active == 0).all()
    assert method.ranks() == [8]


def test_moments_start_anew_with_the_new_basis():
    method, adapter, optimizer, generator = start()
    for rows in (adapter.a, adapter.b):
        rows.active.grad = torch.ones_like(rows.active)
    optimizer.share_gradients()
    optimizer.adamw.step()
    optimizer.applied()
    assert adapter.a.exp_avg.any()
    run_to(method, optimizer, generator, 10)
    assert not adapter.a.exp_avg.any() and not adapter.b.exp_avg_sq.any()
    assert adapter.a.ages == [0] * adapter.capacity
    before = adapter.a.active.detach().clone()
    for rows in (adapter.a, adapter.b):
        rows.active.grad = torch.ones_like(rows.active)
    optimizer.share_gradients()
    optimizer.adamw.step()
    assert (adapter.a.active - before).abs().max() <= 1.01e-3


@pytest.mark.parametrize("mode", ["product", "paper"])
def test_the_file_holds_the_product_cut_to_the_signal_without_noise(mode):
    method, adapter, optimizer, generator = start(ac_mode=mode)
    run_to(method, optimizer, generator, 100, loss=0.3)
    ((down, up),) = method.factors()
    (rank,) = method.ranks()
    assert down.shape == (rank, 24) and up.shape == (40, rank) and rank < 8
    u, sigma, vt = product_svd(adapter.b.active.detach().t(), adapter.a.active.detach())
    best = (u[:, :rank] * sigma[:rank]) @ vt[:rank]
    assert torch.allclose(up @ down, best, atol=1e-5)
    assert torch.allclose(up.square().sum(0), down.square().sum(1), rtol=1e-4)  # balanced
