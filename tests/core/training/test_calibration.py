"""A run that starts by the gradient: what is found, that nothing else changes, that it stops."""

from dataclasses import replace

import pytest
import torch
import toy
import toy_runs
from toy_runs import BASE, Stop, data, run, same_bits, stop_at

from lora2_core.effect.start import leading
from lora2_core.errors import LoRA2Error
from lora2_core.layers.inject import ordered_adapters
from lora2_core.training.calibration import calibration_steps
from lora2_core.training.first_gradient import _Sums, first_gradient
from lora2_core.training.forward import forward
from lora2_core.training.loop import Training

GRADIENT = replace(BASE, start="gradient", importance="flat", lambda_e=0.0, r_init=3, r_max=12)


def training(config=GRADIENT, denoiser=None, ranks=None, **settings):
    order = data(seed=config.seed, accumulation=config.gradient_accumulation, **settings)
    return Training(denoiser or toy.ToyDenoiser(), order, config, ranks)


def hooks(denoiser):
    return sum(len(m._forward_hooks) for m in denoiser.network.modules())


def dense(denoiser, adapters, batches, config, count):
    """(G [m, n], Ω [k, m]) of each layer: the gradient of the frozen weights themselves."""
    generator = torch.Generator().manual_seed(config.seed)
    omegas = []
    for adapter in adapters:
        k = min(count, adapter.max_rank)
        omegas.append(torch.randn(k, adapter.out_features, generator=generator) / k**0.5)
    weights = [adapter.layer.weight.requires_grad_(True) for adapter in adapters]
    for _ in range(6):
        for batch in next(batches):
            loss, _ = forward(denoiser, batch, config, None, generator, None)
            (batch.weight * loss).backward()
    found = [weight.grad.flatten(1) / 6 for weight in weights]
    for weight in weights:
        weight.requires_grad_(False)
        weight.grad = None
    return list(zip(found, omegas, strict=True))


@pytest.mark.parametrize("targets", ["attention", "all_linear"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_it_is_the_dense_gradient_seen_through_random_rows(targets, accumulation):
    config = replace(GRADIENT, targets=targets, gradient_accumulation=accumulation)
    denoiser = toy.ToyDenoiser()
    adapters = ordered_adapters(denoiser, targets, 1)
    found = first_gradient(
        denoiser, adapters, data(accumulation=accumulation), config, 6, 5, 1.0, None
    )
    assert hooks(denoiser) == 0
    twin = dense(denoiser, adapters, data(accumulation=accumulation), config, 5)
    for one, (g, omega) in zip(found, twin, strict=True):
        expected = omega @ g
        assert torch.allclose(one, expected, atol=1e-5 * float(expected.abs().max()) + 1e-12)


def test_in_fp16_a_pass_that_overflows_is_left_out_and_the_scale_halved():
    """As a loss scaler does, but without a step: autograd's own numbers, put in by hand."""
    rows = [torch.nn.Parameter(torch.zeros(2, 3)) for _ in range(2)]
    sums = _Sums(rows, 8.0, doubtful=True)
    for value, other in ((8.0, 16.0), (float("inf"), 1.0), (4.0, 4.0), (float("nan"), 1.0)):
        for row, own in zip(rows, (value, other), strict=True):
            row.grad = torch.full((2, 3), own)
        sums.add()
    assert sums.scale == 2.0
    one, two = sums.taken(4)
    assert torch.equal(one, torch.full((2, 3), (1.0 + 1.0) / 4))
    assert torch.equal(two, torch.full((2, 3), (2.0 + 1.0) / 4))
    for row in rows:
        row.grad = torch.full((2, 3), float("inf"))
    for _ in range(40):  # not the scale's fault, then
        rows[0].grad = torch.full((2, 3), float("inf"))
        sums.add()
    assert not sums.taken(4)[0].isfinite().any()


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_the_scale_of_the_loss_does_not_matter(scale):
    denoiser = toy.ToyDenoiser()
    adapters = ordered_adapters(denoiser, "attention", 1)
    one, other = (
        first_gradient(denoiser, adapters, data(), GRADIENT, 6, 5, s, None) for s in (1.0, scale)
    )
    for a, b in zip(one, other, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("importance", ["flat", "unit_energy"])
def test_as_many_rows_in_all_but_not_the_same_everywhere(importance):
    config = replace(GRADIENT, importance=importance, rank_freeze=1.0)
    found = training(config)
    costs = [a.in_features + a.out_features for a in found._adapters]
    even = sum(3 * cost for cost in costs)
    found.run()
    ranks = [a.rank for a in found._adapters]
    assert min(ranks) >= 1 and max(ranks) <= 12 and len(set(ranks)) > 1
    spent = sum(rank * cost for rank, cost in zip(ranks, costs, strict=True))
    assert 0.8 * even <= spent <= even


def test_the_first_step_s_loss_is_that_of_the_model_without_an_adapter():
    config = replace(GRADIENT, steps=1)
    batches = data()
    later = [next(batches) for _ in range(2)][-1]
    plain = Training(toy.ToyDenoiser(), iter([later]), replace(config, start="even")).run()
    assert training(config).run().losses == plain.losses


def test_rows_point_where_the_gradient_leads():
    config = replace(GRADIENT, r_init=1, r_max=1, steps=6)
    found = training(config)
    before = []
    found.run(on_pass=lambda done, whole: before.append((done, whole)))
    assert before == [(k, 6) for k in range(1, 7)]
    denoiser = toy.ToyDenoiser()
    adapters = ordered_adapters(denoiser, config.targets, 1)
    for adapter, (g, _) in zip(
        found._adapters, dense(denoiser, adapters, data(), config, 1), strict=True
    ):
        row = adapter.a.active.detach().flatten()
        row = row / row.norm()
        random = torch.randn(200, len(row), generator=torch.Generator().manual_seed(0))
        random = random / random.norm(dim=1, keepdim=True)
        usual = (random @ g.t()).norm(dim=1)
        assert float((g @ row).norm()) > 1.5 * float(usual.median())


@pytest.mark.parametrize("stop", [1, 3])
@pytest.mark.parametrize("more", [{}, {"ema_decay": 0.9}, {"gradient_accumulation": 2}])
def test_a_run_that_was_stopped_ends_in_the_same_bits(stop, more):
    config = replace(GRADIENT, **more)
    expected = training(config).run()
    first = training(config)
    with pytest.raises(Stop):
        first.run(stop_at(stop, Stop()))
    second = training(config)
    second.restore(first.state())
    found = second.run()
    assert same_bits(found, expected) and found.losses == expected.losses


def test_more_steps_may_be_asked_for_when_it_goes_on():
    """The batches that were looked at are those of the run as it began."""
    first = training()
    with pytest.raises(Stop):
        first.run(stop_at(3, Stop()))
    longer = replace(GRADIENT, steps=11)
    second = training(longer)
    second.restore(first.state())
    assert second.run().losses[:8] == training().run().losses


def test_one_that_was_stopped_while_it_looked_has_learned_nothing_and_lost_nothing():
    denoiser = toy.ToyDenoiser()
    first = training(denoiser=denoiser)

    def stop(done, whole):
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        first.run(on_pass=stop)
    assert first.done == 0 and hooks(denoiser) == 0
    second = training(denoiser=denoiser)
    second.restore(first.state())
    assert same_bits(second.run(), training().run())


def test_ranks_that_were_asked_for_stay():
    names = [name for name, _ in training()._parts.components]
    asked = {f"lora_unet_{name.replace('.', '_')}": 2 + k % 3 for k, name in enumerate(names)}
    found = run(GRADIENT, ranks=asked)
    assert [rank for _, rank in found.ranks.values()] == [2 + k % 3 for k in range(len(names))]


def test_other_methods_and_an_even_start_look_at_nothing():
    assert calibration_steps(GRADIENT) == 8
    assert calibration_steps(replace(GRADIENT, steps=300)) == 16
    assert calibration_steps(replace(GRADIENT, steps=1000)) == 40
    for config in (
        replace(GRADIENT, start="even"),
        replace(GRADIENT, method="lora"),
        replace(GRADIENT, method="ac_lora"),
    ):
        assert calibration_steps(config) == 0
        passes = []
        training(config).run(on_pass=lambda *found, passes=passes: passes.append(found))
        assert not passes


def test_a_gradient_that_is_not_finite_is_told_of_before_anything_is_trained():
    denoiser = toy.ToyDenoiser()
    predict = denoiser.predict
    denoiser.predict = lambda *given: predict(*given) * float("nan")
    with pytest.raises(LoRA2Error, match="gradient is not finite before anything is trained"):
        training(denoiser=denoiser).run()
    assert hooks(denoiser) == 0


def test_a_layer_that_the_loss_does_not_reach_starts_as_it_would_otherwise():
    """As those of a text encoder which are behind what is read of it."""
    assert not leading(torch.zeros(4, 6)).gains.any()
    adapter = training()._adapters[0]
    method = training()._method
    method.start_along(
        [2] * len(method.adapters), [torch.zeros(0, 1)] * len(method.adapters),
        torch.Generator().manual_seed(0),
    )  # fmt: skip
    bound = adapter.in_features**-0.5
    rows = method.adapters[0].a.active
    assert rows.shape[0] == 2 and rows.abs().max() <= bound and rows.std() > 0.3 * bound


def test_the_same_seed_gives_the_same_bits_and_another_one_others():
    one, again = (toy_runs.run(GRADIENT) for _ in range(2))
    assert same_bits(one, again)
    other = toy_runs.run(replace(GRADIENT, seed=1))
    assert one.ranks != other.ranks or not same_bits(one, other)
