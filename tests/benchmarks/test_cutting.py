"""Cuts of bare factors."""

import pytest
import torch
from tradeoff import cutting
from tradeoff.contestants import AS_SAVED, CONTESTANTS


@pytest.fixture
def factors():
    generator = torch.Generator().manual_seed(0)
    return {
        name: (torch.randn(rank, 80, generator=generator), torch.randn(120, rank))
        for name, rank in {"a": 90, "b": 40}.items()
    }


@pytest.fixture
def effects():
    return {"a": tuple(1.0 / (i + 1) for i in range(90)), "b": tuple(1e-4 for _ in range(40))}


def test_each_cut_is_as_small_as_it_says(factors, effects):
    size = cutting.parameters(factors)
    found = dict(cutting.cuts(factors, effects, size))
    assert size == 26_000 and list(found) == [
        "whole", "effect 0.999", "effect 0.99", "effect 15k", "σ 15k",
    ]  # fmt: skip
    for name in ("effect 15k", "σ 15k"):
        assert 14_800 <= cutting.parameters(found[name]) <= 15_000
    assert found["whole"] is factors


def test_by_effect_the_first_rows_stay_and_a_component_may_go(factors, effects):
    found = dict(cutting.cuts(factors, effects, cutting.parameters(factors)))["effect 15k"]
    assert found.keys() == {"a"}
    assert torch.equal(found["a"][0], factors["a"][0][:75])


def test_a_share_of_the_effect_is_kept_and_no_row_more(factors, effects):
    found = dict(cutting.cuts(factors, effects, cutting.parameters(factors)))["effect 0.99"]
    every = sum(map(sum, effects.values()))
    kept = [sum(effects[name][: len(down)]) for name, (down, _) in found.items()]
    assert sum(kept) >= 0.99 * every > sum(kept) - min(effects["a"][: len(found["a"][0])])


def test_a_cut_can_be_named(factors, effects):
    found = cutting.named(factors, effects, CONTESTANTS["lora2"].saved)
    same = dict(cutting.cuts(factors, effects, cutting.parameters(factors)))[AS_SAVED]
    assert {name: len(down) for name, (down, _) in found.items()} == {
        name: len(down) for name, (down, _) in same.items()
    }
