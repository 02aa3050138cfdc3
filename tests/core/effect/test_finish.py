"""A trained adapter in the order of its effects: the same update, and cut the least harmful one."""

import pytest
import torch
from random_component import component

from lora2_core.effect.finish import ordered
from lora2_core.effect.measure import Moments, effect


def adapter(count=3):
    """(factors, moments) of linear layers and a convolution; the second hardly matters."""
    factors, moments = {}, []
    for index in range(count):
        up, down, found, _, _ = component(index, n=8)
        if index == 1:
            found = Moments(found.p * 1e-6, found.q)
        shapes = ((4, 2, 2, 2), (9, 4, 1, 1)) if index == 2 else ((4, 8), (9, 4))
        factors[f"layer{index}"] = (down.float().view(shapes[0]), up.float().view(shapes[1]))
        moments.append(found)
    return factors, moments


def delta(factors):
    down, up = factors
    return up.flatten(1) @ down.flatten(1)


def test_uncut_it_is_the_same_update_in_another_order():
    factors, moments = adapter()
    found = ordered(factors, moments, cut=False)
    assert list(found.factors) == list(factors)
    for name, own in factors.items():
        new = found.factors[name]
        assert new[0].shape == own[0].shape and new[1].shape == own[1].shape
        assert torch.allclose(delta(new), delta(own), atol=1e-4)
        sizes = new[0].flatten(1).norm(dim=1), new[1].flatten(1).norm(dim=0)
        assert torch.allclose(*sizes, rtol=1e-4)
        assert list(found.effects[name]) == sorted(found.effects[name], reverse=True)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_a_share_of_the_effect_is_kept(share):
    factors, moments = adapter()
    whole = ordered(factors, moments, cut=False)
    found = ordered(factors, moments, share)
    total = sum(map(sum, whole.effects.values()))
    assert sum(map(sum, found.effects.values())) >= share * total * (1 - 1e-9)
    assert "layer1" not in found.factors and found.effects["layer1"] == ()
    for name, new in found.factors.items():
        rank = len(found.effects[name])
        assert rank == len(new[0]) == new[1].shape[1]
        assert found.effects[name] == whole.effects[name][:rank]


def test_what_never_moved_leaves_or_stays_as_it_is():
    factors, moments = adapter(2)
    zeros = torch.zeros(4, 4)
    dead = Moments(zeros, zeros)
    assert "layer0" not in ordered(factors, [dead, moments[1]], 0.999).factors
    kept = ordered(factors, [dead, moments[1]], cut=False).factors["layer0"]
    assert all(torch.equal(*both) for both in zip(kept, factors["layer0"], strict=True))


def test_of_an_adapter_that_never_moved_nothing_leaves():
    factors, _ = adapter(2)
    dead = [Moments(torch.zeros(4, 4), torch.eye(4))] * 2
    found = ordered(factors, dead, 0.9)
    for name, own in factors.items():
        assert all(torch.equal(*both) for both in zip(found.factors[name], own, strict=True))
        assert found.effects[name] == (0.0,) * 4


def test_moments_that_are_not_finite_are_refused():
    factors, moments = adapter(2)
    broken = Moments(moments[0].p * torch.nan, moments[0].q)
    with pytest.raises(torch.linalg.LinAlgError):
        ordered(factors, [broken, moments[1]])


def test_the_cut_loses_what_its_effects_say():
    factors, moments = adapter(1)
    found = ordered(factors, moments, 0.6)
    down, up = factors["layer0"]
    new_down, new_up = found.factors["layer0"]
    kept = torch.linalg.lstsq(up.double(), new_up.double()).solution
    kept = kept @ torch.linalg.lstsq(down.t().double(), new_down.t().double()).solution.t()
    lost = effect(torch.eye(4, dtype=torch.float64) - kept, moments[0])
    whole = sum(ordered(factors, moments, cut=False).effects["layer0"])
    assert lost == pytest.approx(whole - sum(found.effects["layer0"]), rel=1e-3)
