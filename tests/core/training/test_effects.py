"""A run whose file is cut by effect: what leaves, what stays, and that it can be stopped."""

from contextlib import suppress
from dataclasses import replace

import pytest
import torch
import toy
from toy_runs import BASE, Stop, data, run, same_bits, stop_at

from lora2_core.config import TrainConfig
from lora2_core.effect.measure import Moments
from lora2_core.errors import LoRA2Error
from lora2_core.training.loop import Training

CUT = replace(BASE, effect_share=0.9, steps=32)


def delta(factors):
    down, up = factors
    return up.flatten(1) @ down.flatten(1)


def trained(config, state=None, on_step=None):
    training = Training(toy.ToyDenoiser(), data(seed=config.seed), config)
    if state is not None:
        training.restore(state)
    with suppress(Stop):
        training.run(on_step)
    return training


@pytest.mark.parametrize("method", ["lora2", "lora"])
def test_the_run_itself_is_the_same_to_the_bit(method):
    with_it, without = (
        run(replace(CUT, method=method, effect_share=share)) for share in (0.9, 1.0)
    )
    assert with_it.losses == without.losses
    assert not without.effects


def test_lora2_is_cut_and_plain_lora_put_in_order():
    whole = run(replace(CUT, effect_share=1.0))
    cut = run(CUT)
    ranks = {name: rank for name, (_, rank) in cut.ranks.items()}
    assert sum(ranks.values()) < sum(rank for _, rank in whole.ranks.values())
    assert {name for name, rank in ranks.items() if rank} == set(cut.factors)
    for name, rank in ranks.items():
        assert len(cut.effects[name]) == rank
        assert list(cut.effects[name]) == sorted(cut.effects[name], reverse=True)
        if rank:
            assert cut.factors[name][0].shape[0] == cut.factors[name][1].shape[1] == rank
        nu = cut.ranks[name][0]
        assert (nu is None) == (rank != whole.ranks[name][1])

    plain, in_order = (run(replace(CUT, method="lora", effect_share=s)) for s in (1.0, 0.9))
    assert in_order.ranks == plain.ranks and set(in_order.effects) == set(plain.factors)
    for name, factors in plain.factors.items():
        size = float(delta(factors).norm())
        assert torch.allclose(delta(in_order.factors[name]), delta(factors), atol=1e-4 * size)


def test_more_of_the_effect_keeps_more():
    sizes = []
    for share in (0.5, 0.9, 0.99, 0.9999):
        found = run(replace(CUT, effect_share=share))
        sizes.append(sum(rank for _, rank in found.ranks.values()))
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


@pytest.mark.parametrize("stop", [1, 4, 31])
@pytest.mark.parametrize("more", [{}, {"ema_decay": 0.9}, {"gradient_accumulation": 2}])
def test_a_run_that_was_stopped_ends_in_the_same_bits(stop, more):
    config = replace(CUT, **more)

    def batches():
        return data(seed=config.seed, accumulation=config.gradient_accumulation)

    def training():
        return Training(toy.ToyDenoiser(), batches(), config)

    expected = training().run()
    first = training()
    with pytest.raises(Stop):
        first.run(stop_at(stop, Stop()))
    second = training()
    second.restore(first.state())
    found = second.run()
    assert same_bits(found, expected) and found.effects == expected.effects


def test_a_state_of_before_there_were_moments_goes_on():
    longer = replace(CUT, steps=64)
    state = trained(longer, on_step=stop_at(4, Stop())).state()
    facts = {name: value for name, value in state.facts.items() if name != "moments"}
    facts["config"] = {k: v for k, v in facts["config"].items() if k != "effect_share"}
    tensors = {n: part for n, part in state.tensors.items() if not n.startswith("moments.")}
    config = replace(longer, effect_share=TrainConfig().effect_share)
    found = trained(config, replace(state, tensors=tensors, facts=facts)).result()
    assert found.effects and found.steps == 64


def test_each_step_can_be_asked_for_the_shares_and_is_not_changed_by_it():
    seen = []
    asked = trained(CUT, on_step=lambda info: seen.append(info.effects())).result()
    untouched = run(CUT)
    assert same_bits(asked, untouched) and asked.effects == untouched.effects
    assert len(seen) == CUT.steps and all(len(one) == len(asked.ranks) for one in seen)
    assert sum(seen[-1]) == pytest.approx(1)


def test_the_last_step_s_shares_are_those_of_all_rows():
    seen = []
    config = replace(CUT, effect_share=1 - 1e-12)
    result = trained(config, on_step=lambda info: seen.append(info.effects())).result()
    sums = [sum(result.effects[name]) for name in result.ranks]
    assert seen[-1] == pytest.approx([one / sum(sums) for one in sums], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("change", [{"effect_share": 1.0}, {"method": "ac_lora"}])
def test_where_effects_are_not_gathered_a_step_has_none(change):
    seen = []
    run(replace(CUT, **change), on_step=lambda info: seen.append(info.effects))
    assert seen == [None] * CUT.steps


def test_a_run_that_ended_early_keeps_every_row():
    training = trained(replace(CUT, steps=64), on_step=stop_at(40, Stop()))
    found = training.result()
    assert set(found.factors) == set(found.effects) == set(found.ranks)
    assert [rank for _, rank in found.ranks.values()] == training._method.ranks()


def test_a_run_too_short_to_know_is_left_as_it_is():
    short = replace(CUT, steps=30)  # 15 steps are counted
    found = run(short)
    assert same_bits(found, run(replace(short, effect_share=1.0))) and not found.effects
    assert run(replace(short, steps=31)).effects


def test_moments_that_are_not_finite_cost_nothing_but_the_cut(monkeypatch, caplog):
    training = trained(CUT)
    broken = [Moments(one.p * torch.inf, one.q) for one in training._parts.moments.moments()]
    monkeypatch.setattr(training._parts.moments, "moments", lambda: broken)
    found = training.result()
    assert not found.effects and len(found.factors) == 16
    assert "not finite" in caplog.text


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_a_share_that_is_none_is_named(share):
    with pytest.raises(LoRA2Error, match=f"effect_share is {share}"):
        TrainConfig(effect_share=share)


def test_ac_lora_is_left_as_it_is():
    config = replace(BASE, method="ac_lora", effect_share=0.9)
    assert same_bits(run(config), run(replace(config, effect_share=1.0)))
