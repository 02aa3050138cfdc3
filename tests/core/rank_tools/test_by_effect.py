"""Cuts by what directions do to the loss, of adapters of which that is known."""

import json
from dataclasses import replace

import pytest
import torch
from random_component import component
from reference import best_by_effect

from lora2_core.effect.measure import Moments, directions
from lora2_core.errors import LoRA2Error
from lora2_core.files.adapter_file import LoraState, components, read
from lora2_core.files.effect_note import EFFECT_NOTE, read_effect_note
from lora2_core.files.header import read_header
from lora2_core.files.writing import write
from lora2_core.rank_tools import Cut, Ingredient, compress, cut_merged, expand, merge, open_adapter
from lora2_core.rank_tools.adapters import factorised
from lora2_core.ranks import rank_map, rank_report

STEM = "lora_unet_input_blocks_4_1_transformer_blocks_0_"
NAMES = [f"{STEM}{kind}_to_{part}" for kind in ("attn1", "attn2") for part in "qkv"]
SIZES = (1.0, 0.1, 1e-4, 1.0, 1e-9, 0.3)  # how much each component does


def known(dtype=torch.float32, names=NAMES):
    """(adapter of which the effects are known, component → (ΔW, G, C))."""
    state, dense, effects = LoraState(), {}, {}
    for seed, (name, size) in enumerate(zip(names, SIZES, strict=False)):
        up, down, moments, g, c = component(seed, m=12, n=10)
        state[f"{name}.lora_up.weight"] = up.to(dtype)
        state[f"{name}.lora_down.weight"] = down.to(dtype)
        state[f"{name}.alpha"] = torch.tensor(4.0)
        effects[name] = directions(Moments(moments.p * size, moments.q))
        dense[name] = up @ down, g * size, c
    return replace(open_adapter(state, "mine"), effects=effects), dense


def whole(adapter):
    return sum(float(one.effects.sum()) for one in adapter.effects.values())


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.9999])
def test_a_share_of_the_effect_by_the_best_directions(share):
    adapter, dense = known()
    outcome = compress(adapter, Cut(effect=share))
    assert outcome.retained >= share
    found = components(outcome.state)
    for row in outcome.rows:
        delta, g, c = dense[row.name]
        assert (row.name in found) == (row.after > 0)
        expected, effects = best_by_effect(delta, g, c, row.after)
        assert row.energy == pytest.approx(float(effects[:4].sum()), rel=1e-5)
        if row.after:
            assert torch.allclose(found[row.name].delta().double(), expected, atol=1e-3)
    assert "effect kept" in str(outcome)
    assert outcome.rows[4].after == 0 or share > 0.999


def test_the_result_knows_its_effects_and_is_cut_again_without_the_model(tmp_path):
    adapter, _ = known()
    first = compress(adapter, Cut(effect=0.9999))
    path = write(first.state, tmp_path / "first.safetensors", precision="fp32")
    again = open_adapter(path)
    assert set(again.effects) == set(components(first.state))
    direct, second = compress(adapter, Cut(effect=0.9)), compress(again, Cut(effect=0.9))
    there = components(direct.state)
    assert {n: f.rank for n, f in components(second.state).items()} == {
        n: f.rank for n, f in there.items()
    }
    for name, factors in components(second.state).items():
        assert torch.allclose(factors.delta(), there[name].delta(), atol=1e-4)


def test_all_of_it_in_order_is_the_same_update():
    adapter, dense = known()
    outcome = compress(adapter, Cut(how="effect"))
    for name, factors in components(outcome.state).items():
        assert factors.rank == 4
        assert torch.allclose(factors.delta().double(), dense[name][0], atol=1e-4)
        noted = read_effect_note(outcome.state.metadata)[name]
        assert torch.allclose(noted, adapter.effects[name].effects, rtol=1e-3)


@pytest.mark.parametrize("megabytes", [0.003, 0.004, 0.006, 0.02])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_budget_is_held_by_the_file(tmp_path, megabytes, precision):
    adapter, _ = known()
    dtype = {"fp16": torch.float16, "fp32": torch.float32}[precision]
    outcome = compress(adapter, Cut(megabytes=megabytes, how="effect"), dtype=dtype)
    path = write(outcome.state, tmp_path / "a.safetensors", precision=precision)
    assert path.stat().st_size <= megabytes * 1e6
    larger = compress(adapter, Cut(megabytes=2 * megabytes, how="effect"), dtype=dtype)
    assert larger.retained >= outcome.retained


def test_a_cap_of_the_rank():
    adapter, _ = known()
    assert {row.after for row in compress(adapter, Cut(rank=2, how="effect")).rows} == {2}


def test_what_left_is_shown_at_rank_zero(tmp_path):
    adapter, _ = known()
    outcome = compress(adapter, Cut(effect=0.99))
    gone = {row.name for row in outcome.rows if row.after == 0}
    assert gone
    path = write(outcome.state, tmp_path / "a.safetensors", precision="fp16")
    for report in (
        rank_report.with_cut(rank_report.report(outcome.state), outcome),
        rank_report.report_from_header(read_header(path)),
    ):
        rows = {row["name"]: row for row in report["components"]}
        assert set(rows) == set(NAMES)
        assert {name for name, row in rows.items() if row["rank"] == 0} == gone
        assert all(rows[name]["shape"] == [12, 10] for name in gone)
        assert sum(row["effect"] for row in rows.values()) == pytest.approx(1)
        assert report["totals"]["min_rank"] == 0
        assert report["totals"]["rank_zero"] == len(gone)
        assert rank_map.of_report(report)[next(iter(gone))] == 0
    later = compress(open_adapter(path), Cut(rank=1))
    both = (rank_report.with_cut(rank_report.report(one.state), one) for one in (outcome, later))
    assert [report["totals"]["of"] for report in both] == ["effect", "energy"]
    rows = rank_report.with_cut(rank_report.report(later.state), later)["components"]
    assert {row["name"] for row in rows if row["rank"] == 0} == gone
    assert EFFECT_NOTE not in later.state.metadata
    padded = expand(open_adapter(path), 8)
    report = rank_report.with_cut(rank_report.report(LoraState(dict(padded))), padded)
    assert report["totals"]["of"] == "energy"
    assert set(components(LoraState(dict(padded)))) == set(NAMES) - gone


def test_where_nothing_is_known_the_way_out_is_named():
    adapter, _ = known()
    with pytest.raises(LoRA2Error, match="connect a model"):
        compress(replace(adapter, effects={}), Cut(effect=0.9))


def test_what_is_not_known_stays_whole():
    adapter, _ = known()
    some = {name: adapter.effects[name] for name in NAMES[:3]}
    outcome = compress(replace(adapter, effects=some), Cut(effect=0.5))
    assert [row.after for row in outcome.rows[3:]] == [4, 4, 4]
    assert sum(row.after for row in outcome.rows[:3]) < 12
    assert EFFECT_NOTE not in outcome.state.metadata
    kept = sum(row.energy * row.retained for row in outcome.rows[:3])
    assert outcome.retained == pytest.approx(kept / sum(row.energy for row in outcome.rows[:3]))


def test_what_is_not_known_has_no_more_rows_than_it_needs():
    """Nor is it held to a cap of the rank, or taken for known."""
    adapter, dense = known()
    state = LoraState(dict(adapter.state))
    name = NAMES[-1]
    down, up = state[f"{name}.lora_down.weight"], state[f"{name}.lora_up.weight"]
    state[f"{name}.lora_down.weight"] = torch.cat([down] * 4)
    state[f"{name}.lora_up.weight"] = torch.cat([up] * 4, 1)
    some = {name: adapter.effects[name] for name in NAMES[:-1]}
    longer = replace(open_adapter(state, "longer"), effects=some)
    outcome = compress(longer, Cut(rank=2, how="effect"))
    assert [(row.before, row.after) for row in outcome.rows] == [(4, 2)] * 5 + [(16, 10)]
    assert torch.allclose(
        components(outcome.state)[name].delta().double(), dense[name][0], atol=1e-4
    )
    assert EFFECT_NOTE not in outcome.state.metadata


def test_a_merge_that_is_cut_stays_a_merge(tmp_path):
    adapter, _ = known()
    other = replace(adapter, name="other", effects={})
    whole = merge([Ingredient(adapter, 0.5), Ingredient(other, 0.25)])
    opened = open_adapter(whole.state, "both")
    effects = {
        name: directions(Moments(torch.eye(8) * size, torch.eye(8)))
        for name, size in zip(NAMES, SIZES, strict=True)
    }
    outcome = cut_merged(whole, replace(opened, effects=effects), Cut(effect=0.9))
    assert outcome.measure == "effect" and outcome.retained >= 0.9
    assert [row.before for row in outcome.rows] == [8] * 6
    note = json.loads(outcome.state.metadata["lora2"])
    assert [one["name"] for one in note["merged_from"]] == ["mine", "other"]
    assert outcome.state.metadata["modelspec.merged_from"] == "mine × 0.5, other × 0.25"
    path = write(outcome.state, tmp_path / "a.safetensors", precision="fp32")
    assert set(open_adapter(path).effects) == set(components(outcome.state))


def test_a_budget_for_what_is_not_known_too(tmp_path):
    adapter, _ = known()
    some = {name: adapter.effects[name] for name in NAMES[:3]}
    cut = Cut(megabytes=0.006, how="effect")
    outcome = compress(replace(adapter, effects=some), cut)
    path = write(outcome.state, tmp_path / "a.safetensors", precision="fp32")
    assert path.stat().st_size <= 6000
    assert [row.after for row in outcome.rows[3:]] == [4, 4, 4]


def test_a_budget_of_nothing_says_what_is_needed():
    adapter, _ = known()
    with pytest.raises(LoRA2Error, match=r"0\.001 MB .* at least"):
        compress(adapter, Cut(megabytes=0.001, how="effect"))


def test_a_strength_weighs_twice():
    adapter, _ = known()
    outcome = merge([Ingredient(adapter, 0.5, cross_attention=2.0)], Cut(effect=0.9))
    for row in outcome.rows:
        factor = 0.25 if "attn1" in row.name else 1.0
        expected = factor * float(adapter.effects[row.name].effects.sum())
        assert row.energy == pytest.approx(expected)


def test_a_merge_of_two_does_not_know_its_effects():
    one, _ = known()
    other, _ = known()
    with pytest.raises(LoRA2Error, match="not known"):
        merge([Ingredient(one), Ingredient(other)], Cut(effect=0.9))


def test_kept_in_memory_the_cut_is_the_same():
    adapter, _ = known()
    kept = replace(factorised(adapter, "effect"), effects={})
    one, other = compress(adapter, Cut(effect=0.9)), compress(kept, Cut(effect=0.9))
    assert [row.after for row in one.rows] == [row.after for row in other.rows]
    for name, factors in components(one.state).items():
        assert torch.allclose(factors.delta(), components(other.state)[name].delta(), atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"effect": 0.0},
        {"effect": 1.1},
        {"effect": -1.0},
        {"effect": float("nan")},
        {"effect": 0.5, "rank": 3},
        {"energy": 0.5, "how": "effect"},
    ],
)
def test_what_makes_no_sense_is_refused(change):
    with pytest.raises(LoRA2Error):
        Cut(**change)


def test_a_note_of_other_rows_is_none(tmp_path):
    adapter, _ = known()
    state = compress(adapter, Cut(effect=0.99)).state
    name = next(iter(components(state)))
    state[f"{name}.lora_down.weight"] = torch.cat([state[f"{name}.lora_down.weight"]] * 2)
    state[f"{name}.lora_up.weight"] = torch.cat([state[f"{name}.lora_up.weight"]] * 2, 1)
    path = write(state, tmp_path / "a.safetensors", precision="fp32")
    assert EFFECT_NOTE in read(path).metadata
    assert not open_adapter(path).effects
    assert all("effect" not in row for row in rank_report.report(read(path))["components"])
    assert json.loads(read(path).metadata[EFFECT_NOTE])["format_version"] == 1
