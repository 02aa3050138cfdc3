"""Expanding, merging and compressing adapters, against their dense updates."""

import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import error
from safetensors.torch import save_file

from lora2_core.errors import LoRA2Error
from lora2_core.files import adapter_file
from lora2_core.files.adapter_file import LoraState, components, read
from lora2_core.files.writing import write
from lora2_core.rank_tools import Cut, Ingredient, compress, expand, merge, open_adapter
from lora2_core.rank_tools.adapters import factorised
from lora2_core.rank_tools.blocks import parse_blocks

STEM = "lora_unet_input_blocks_4_1_transformer_blocks_0_"
LAYERS = {  # component → shape of its layer
    f"{STEM}attn1_to_q": (24, 24),
    f"{STEM}attn1_to_out_0": (24, 24),
    f"{STEM}attn2_to_k": (24, 2048),
    f"{STEM}ff_net_2": (24, 40),
    "lora_unet_input_blocks_1_0_in_layers_2": (16, 12, 3, 3),
    "lora_te1_text_model_encoder_layers_0_mlp_fc1": (20, 16),
}


def adapter(seed, ranks, layers=LAYERS, alpha=True, dtype=torch.float32):
    """An adapter in kohya's names; ranks: one for all, or by component."""
    generator = torch.Generator().manual_seed(seed)
    state = LoraState(None, {"modelspec.trigger_phrase": f"word{seed}", "ss_v2": "False"})
    for index, (name, (out, *rest)) in enumerate(layers.items()):
        rank = ranks if isinstance(ranks, int) else ranks[index]
        down = torch.randn(rank, *rest, generator=generator)
        up = torch.randn(out, rank, *(1 for _ in rest[1:]), generator=generator)
        state[f"{name}.lora_down.weight"] = down.to(dtype)
        state[f"{name}.lora_up.weight"] = up.to(dtype)
        if alpha:
            state[f"{name}.alpha"] = torch.tensor(float(1 + index))
    return state


def opened(*states):
    return [open_adapter(state, f"adapter {i}") for i, state in enumerate(states)]


def deltas(state):
    return {name: factors.delta() for name, factors in components(state).items()}


MIXED = (1, 3, 8, 5, 4, 2)


# merge


def test_a_merge_is_the_weighted_sum_of_the_updates():
    one, other = adapter(0, MIXED), adapter(1, 6, alpha=False)
    a, b = opened(one, other)
    found = merge([Ingredient(a, 0.8), Ingredient(b, 0.5)]).state
    first, second = deltas(one), deltas(other)
    for name, delta in deltas(found).items():
        assert error(delta, 0.8 * first[name] + 0.5 * second[name]) < 1e-6
    ranks = [factors.rank for factors in components(found).values()]
    assert ranks == [rank + 6 for rank in MIXED]


def test_merging_commutes():
    a, b = opened(adapter(0, MIXED), adapter(1, 6))
    one = deltas(merge([Ingredient(a, 0.8), Ingredient(b, 0.5)]).state)
    two = deltas(merge([Ingredient(b, 0.5), Ingredient(a, 0.8)]).state)
    assert all(error(one[name], two[name]) < 1e-6 for name in one)


def test_more_rows_than_the_layer_has_dimensions_are_brought_together():
    states = [adapter(seed, 20) for seed in range(3)]
    found = merge([Ingredient(one) for one in opened(*states)]).state
    expected = [deltas(state) for state in states]
    for name, factors in components(found).items():
        out, *rest = LAYERS[name]
        assert factors.rank == min(60, out, torch.Size(rest).numel())
        assert error(factors.delta(), sum(e[name] for e in expected)) < 1e-5


def test_a_component_that_only_some_have_is_kept():
    layers = dict(list(LAYERS.items())[:2])
    a, b = opened(adapter(0, 4), adapter(1, 4, layers))
    found = deltas(merge([Ingredient(a, 0.5), Ingredient(b)]).state)
    assert set(found) == set(LAYERS)
    name = f"{STEM}ff_net_2"
    assert error(found[name], 0.5 * deltas(adapter(0, 4))[name]) < 1e-6


def test_attention_weights_count_for_their_kind_alone():
    one = adapter(0, 4)
    [a] = opened(one)
    found = deltas(merge([Ingredient(a, 0.5, self_attention=2.0, cross_attention=0.0)]).state)
    expected = {name: delta for name, delta in deltas(one).items() if "attn2" not in name}
    assert found.keys() == expected.keys()
    for name, delta in expected.items():
        factor = 1.0 if "attn1" in name else 0.5
        assert torch.allclose(found[name], factor * delta, atol=1e-5)


def test_the_same_adapter_twice_is_twice_its_update():
    one = adapter(0, 4)
    a, b = opened(one, one)
    found = deltas(merge([Ingredient(a), Ingredient(b)]).state)
    assert all(error(found[name], 2 * delta) < 1e-6 for name, delta in deltas(one).items())


def test_a_merge_in_prefix_keeps_both_in_proportion():
    one, other = adapter(0, 8), adapter(1, 4)
    a, b = opened(one, other)
    found = components(merge([Ingredient(a), Ingredient(b)], Cut(rank=6, how="prefix")).state)
    for name, factors in found.items():
        rows = [components(state)[name] for state in (one, other)]
        expected = sum(
            f.scale * f.up.flatten(1)[:, :k] @ f.down.flatten(1)[:k]
            for f, k in zip(rows, (4, 2), strict=True)
        )
        assert factors.rank == 6
        assert torch.allclose(factors.delta().flatten(1), expected, atol=1e-4)


def test_metadata_of_a_merge_names_its_inputs():
    a, b = opened(adapter(0, 2), adapter(1, 2))
    metadata = merge([Ingredient(a, 0.8), Ingredient(b, 0.5)]).state.metadata
    assert metadata["modelspec.merged_from"] == "adapter 0 × 0.8, adapter 1 × 0.5"
    assert metadata["modelspec.trigger_phrase"] == "word0, word1"
    listed = json.loads(metadata["lora2"])["merged_from"]
    assert [(x["name"], x["weight"]) for x in listed] == [("adapter 0", 0.8), ("adapter 1", 0.5)]
    tags = json.loads(metadata["ss_tag_frequency"])
    assert set(next(iter(tags.values()))) == {"word0", "word1"}
    assert metadata["ss_v2"] == "False"


def koala():
    stem = "lora_unet_input_blocks_3_1_transformer_blocks_0_attn2_to_"
    layers = {f"{stem}{k}": (24, 2048) for k in "kv"}
    shared = "lora_unet_output_blocks_0_1_transformer_blocks_0_attn1_to_q"
    return adapter(1, 4, layers | {shared: (24, 24)})


def test_different_base_models_are_refused_by_name_unless_the_overlap_is_wanted():
    shared = "lora_unet_output_blocks_0_1_transformer_blocks_0_attn1_to_q"
    sdxl, other = adapter(0, 4, LAYERS | {shared: (24, 24)}), koala()
    a, b = opened(sdxl, other)
    with pytest.raises(LoRA2Error, match=r"adapter 0 \(SDXL\), adapter 1 \(KOALA\)"):
        merge([Ingredient(a), Ingredient(b)])
    found = deltas(merge([Ingredient(a), Ingredient(b)], overlap=True).state)
    assert set(found) == {shared}
    assert error(found[shared], deltas(sdxl)[shared] + deltas(other)[shared]) < 1e-6
    c, d = opened(adapter(0, 4), other)
    with pytest.raises(LoRA2Error, match="no component in common"):
        merge([Ingredient(c), Ingredient(d)], overlap=True)


def test_shapes_that_differ_are_named():
    other = dict(LAYERS)
    other[f"{STEM}ff_net_2"] = (24, 44)
    a, b = opened(adapter(0, 4), adapter(1, 4, other))
    with pytest.raises(LoRA2Error, match=r"ff_net_2.*24×40.*adapter 0.*24×44.*adapter 1"):
        merge([Ingredient(a), Ingredient(b)])


@pytest.mark.parametrize("weight", [float("-inf"), float("nan"), float("inf")])
def test_odd_weights_are_named(weight):
    [a] = opened(adapter(0, 2))
    with pytest.raises(LoRA2Error, match="weight of adapter 0 is"):
        Ingredient(a, weight)


def test_nothing_to_merge_is_refused():
    with pytest.raises(LoRA2Error, match="nothing to merge"):
        merge([])


def test_nan_is_named():
    state = adapter(0, 2)
    state[f"{STEM}ff_net_2.lora_up.weight"][0, 0] = torch.nan
    [a] = opened(state)
    with pytest.raises(LoRA2Error, match=r"ff_net_2 of adapter 0 holds NaN"):
        merge([Ingredient(a)])


# compress


def best(delta, rank):
    """Eckart and Young, on the dense matrix."""
    u, sigma, vt = torch.linalg.svd(delta.flatten(1).double(), full_matrices=False)
    return (u[:, :rank] * sigma[:rank]) @ vt[:rank], sigma


@pytest.mark.parametrize("rank", [1, 3, 50])
def test_a_rank_cap_is_the_best_of_that_rank(rank):
    state = adapter(0, 8)
    [a] = opened(state)
    outcome = compress(a, Cut(rank=rank))
    rows = {row.name: row for row in outcome.rows}
    for name, factors in components(outcome.state).items():
        expected, sigma = best(deltas(state)[name], min(rank, 8))
        assert factors.rank == rows[name].after == min(rank, 8)
        assert error(factors.delta().flatten(1).double(), expected) < 1e-5
        share = sigma[: factors.rank].square().sum() / sigma.square().sum()
        assert rows[name].retained == pytest.approx(float(share), abs=1e-6)
        norms = factors.down.flatten(1).norm(dim=1), factors.up.flatten(1).norm(dim=0)
        assert torch.allclose(*norms, rtol=1e-4)  # balanced


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.999, 1.0])
def test_energy_is_held_by_the_least_rank(energy):
    state = adapter(0, 8)
    [a] = opened(state)
    for row in compress(a, Cut(energy=energy)).rows:
        _, sigma = best(deltas(state)[row.name], 8)
        shares = sigma.square().cumsum(0) / sigma.square().sum()
        assert row.retained >= energy - 1e-9
        assert row.after == 1 or shares[row.after - 2] < energy + 1e-6


def test_truncating_twice_is_truncating_once():
    [a] = opened(adapter(0, 12))
    [b] = opened(compress(a, Cut(rank=8)).state)
    once, twice = compress(a, Cut(rank=4)).state, compress(b, Cut(rank=4)).state
    assert all(error(delta, deltas(once)[name]) < 1e-5 for name, delta in deltas(twice).items())


def test_truncation_does_not_depend_on_how_the_factors_share_the_update():
    state = adapter(0, 6)
    other = LoraState(state, state.metadata)
    mix = torch.randn(6, 6, generator=torch.Generator().manual_seed(3)) + 3 * torch.eye(6)
    for name in LAYERS:
        up, down = other[f"{name}.lora_up.weight"], other[f"{name}.lora_down.weight"]
        other[f"{name}.lora_up.weight"] = (up.flatten(1) @ mix.inverse()).view_as(up)
        other[f"{name}.lora_down.weight"] = (mix @ down.flatten(1)).view_as(down)
    a, b = opened(state, other)
    one, two = deltas(compress(a, Cut(rank=3)).state), deltas(compress(b, Cut(rank=3)).state)
    assert all(error(one[name], two[name]) < 1e-4 for name in one)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("how", ["svd", "prefix"])
def test_a_budget_is_never_passed_and_nearly_used(tmp_path, precision, how):
    dtype = {"fp16": torch.float16, "fp32": torch.float32}[precision]
    [a] = opened(adapter(0, 12))
    for megabytes in (0.02, 0.03, 0.05):
        outcome = compress(a, Cut(megabytes=megabytes, how=how), dtype=dtype)
        path = write(outcome.state, tmp_path / f"{megabytes}{how}.safetensors", precision=precision)
        size = path.stat().st_size
        assert size <= megabytes * 1e6
        if any(row.after < row.before for row in outcome.rows):
            dearest = max(t.shape[-1] + 24 for t in outcome.state.values() if t.ndim == 2)
            assert size > megabytes * 1e6 - dearest * dtype.itemsize - 1200


def test_the_budget_that_fits_all_cuts_nothing():
    state = adapter(0, 5)
    [a] = opened(state)
    outcome = compress(a, Cut(megabytes=10))
    assert outcome.retained == pytest.approx(1.0)
    assert all(error(d, deltas(state)[n]) < 1e-5 for n, d in deltas(outcome.state).items())


def test_a_budget_below_one_rank_each_names_the_least():
    [a] = opened(adapter(0, 5))
    with pytest.raises(LoRA2Error, match=r"give at least 0\.0\d\d") as refused:
        compress(a, Cut(megabytes=0.001))
    least = float(str(refused.value).rsplit(" ", 1)[1])
    assert all(row.after >= 1 for row in compress(a, Cut(megabytes=least)).rows)
    with pytest.raises(LoRA2Error, match="give at least"):
        compress(a, Cut(megabytes=least - 0.0015))


def test_prefix_keeps_the_first_rows():
    state = adapter(0, 6)
    [a] = opened(state)
    outcome = compress(a, Cut(rank=2, how="prefix"))
    for row in outcome.rows:
        source, factors = components(state)[row.name], components(outcome.state)[row.name]
        assert torch.equal(factors.down, source.down[:2])
        whole, kept = source.delta().flatten(1), factors.delta().flatten(1)
        left = 1 - float((whole - kept).norm() ** 2 / whole.norm() ** 2)
        assert row.retained == pytest.approx(left, abs=1e-5)


def test_an_update_of_zero_is_kept_at_rank_one():
    state = adapter(0, 4)
    for name in LAYERS:
        state[f"{name}.lora_up.weight"].zero_()
    [a] = opened(state)
    for cut in (Cut(rank=3), Cut(energy=0.9), Cut(megabytes=1)):
        outcome = compress(a, cut)
        assert outcome.retained == 1.0
        assert all(not delta.any() for delta in deltas(outcome.state).values())


@pytest.mark.parametrize(
    ("given_", "named"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"energy": 0.0}, "energy is 0"),
        ({"energy": 1.5}, "energy is 1.5"),
        ({"energy": float("nan")}, "energy is nan"),
        ({"megabytes": 0}, "megabytes is 0"),
        ({"megabytes": float("nan")}, "megabytes is nan"),
        ({"rank": 4, "energy": 0.5}, "exclude each other"),
        ({"rank": 4, "how": "magic"}, "magic"),
    ],
)
def test_odd_cuts_are_named(given_, named):
    with pytest.raises(LoRA2Error, match=named):
        Cut(**given_)


def test_progress_is_told_and_may_stop_the_work():
    [a] = opened(adapter(0, 4))
    seen = []
    compress(a, Cut(rank=2), on_component=lambda done, total: seen.append((done, total)))
    assert seen == [(i, len(LAYERS)) for i in range(1, len(LAYERS) + 1)]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(a, Cut(rank=2), on_component=stop)


@settings(max_examples=25, deadline=None)
@given(
    ranks=st.lists(st.integers(1, 9), min_size=6, max_size=6),
    others=st.lists(st.integers(1, 9), min_size=6, max_size=6),
    weights=st.tuples(st.floats(-2, 2), st.floats(-2, 2)).filter(any),
)
def test_any_merge_is_the_weighted_sum(ranks, others, weights):
    one, other = adapter(0, ranks), adapter(1, others)
    a, b = opened(one, other)
    found = merge([Ingredient(a, weights[0]), Ingredient(b, weights[1])]).state
    first, second = deltas(one), deltas(other)
    assert deltas(found).keys() == first.keys()
    for name, delta in deltas(found).items():
        expected = weights[0] * first[name] + weights[1] * second[name]
        assert (delta - expected).norm() <= 1e-5 * (1 + expected.norm())


def test_a_rank_of_millions_takes_no_memory_of_its_square():
    state = LoraState()
    state["lora_unet_x.lora_down.weight"] = torch.ones(2_000_000, 1)
    state["lora_unet_x.lora_up.weight"] = torch.ones(1, 2_000_000)
    [a] = opened(state)
    outcome = compress(a, Cut(rank=4))
    assert [(row.before, row.after) for row in outcome.rows] == [(2_000_000, 1)]
    with pytest.raises(LoRA2Error, match="rank 2000000"):
        compress(a, Cut(rank=4, how="prefix"))


# cuts of what is kept in memory, strengths of blocks


@pytest.mark.parametrize("how", ["svd", "prefix"])
@pytest.mark.parametrize("cut", [{"rank": 3}, {"energy": 0.8}, {"megabytes": 0.05}])
def test_known_directions_give_the_same_cut(how, cut):
    state = adapter(0, 8)
    [a] = opened(state)
    limit = Cut(how=how, **cut)
    shares = (0.7, 0.5, 2.0, parse_blocks("down=0.25"))
    plain = merge([Ingredient(a, *shares)], limit)
    quick = merge([Ingredient(factorised(a, how), *shares)], limit)
    assert [r.after for r in plain.rows] == [r.after for r in quick.rows]
    assert [r.retained for r in plain.rows] == pytest.approx([r.retained for r in quick.rows])
    one, two = deltas(plain.state), deltas(quick.state)
    assert all(error(one[name], two[name]) < 1e-5 for name in one)


def test_a_factorisation_reads_the_adapter_no_more(monkeypatch):
    [a] = opened(adapter(0, 8))
    known = factorised(a, "svd")
    monkeypatch.setattr(type(a), "factors", lambda *_: pytest.fail("read again"))
    assert {row.after for row in compress(known, Cut(rank=3)).rows} == {3}
    assert compress(known, Cut(megabytes=0.05)).retained < 1


def test_block_strengths():
    strengths = parse_blocks("down=0.5, up4=0;\nmiddle = 2")
    name = "lora_unet_{}_1_transformer_blocks_0_attn1_to_q"
    found = {
        block: strengths.of(name.format(block))
        for block in ("input_blocks_4", "middle_block_1", "output_blocks_4", "output_blocks_5")
    }
    assert list(found.values()) == [0.5, 2.0, 0.0, 1.0]
    assert strengths.of("lora_te1_text_model_encoder_layers_0_mlp_fc1") == 1.0
    assert parse_blocks(" ").of(name.format("input_blocks_4")) == 1.0


@pytest.mark.parametrize("text", ["left=1", "down", "down=", "down=x", "up=nan", "up=1=2"])
def test_odd_block_strengths_are_named(text):
    with pytest.raises(LoRA2Error, match="blocks has"):
        parse_blocks(text)


# expand


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_expansion_keeps_the_rows_and_the_update(dtype):
    state = adapter(0, MIXED, dtype=dtype)
    [a] = opened(state)
    for rank in (None, 8, 12, 16):
        expanded = expand(a, rank)
        found = LoraState(dict(expanded), expanded.metadata)
        wanted = rank or max(MIXED)
        for name, factors in components(found).items():
            source = components(state)[name]
            assert factors.rank == wanted
            assert torch.equal(factors.down[: source.rank], source.down)
            assert torch.equal(factors.up[:, : source.rank], source.up)
            assert not factors.down[source.rank :].any()
            assert not factors.up[:, source.rank :].any()
            limit = 0.0 if wanted % source.rank == 0 and wanted & (wanted - 1) == 0 else 1e-7
            assert error(factors.delta(), source.delta()) <= limit


def test_expansion_below_a_rank_is_refused_and_names_compress():
    [a] = opened(adapter(0, MIXED))
    with pytest.raises(LoRA2Error, match=r"rank is 7.*rank 8.*compress"):
        expand(a, 7)
    with pytest.raises(LoRA2Error, match="rank is 10000000"):
        expand(a, 10_000_000)


def test_expansion_without_alpha_writes_the_one_that_says_scale_one(tmp_path):
    state = adapter(0, MIXED, alpha=False)
    [a] = opened(state)
    path = write(expand(a, 16), tmp_path / "x.safetensors", precision="fp32")
    found = read(path)
    assert all(error(d, deltas(state)[n]) < 1e-6 for n, d in deltas(found).items())
    assert {factors.rank for factors in components(found).values()} == {16}


# files


def test_a_file_is_read_a_few_components_at_a_time(tmp_path, monkeypatch):
    layers = {f"lora_unet_input_blocks_4_1_x_{i}": (24, 24) for i in range(40)}
    path = write(adapter(0, 8, layers), tmp_path / "big.safetensors", precision="fp16")
    read_, finished, ahead = 0, 0, []
    original = adapter_file.load_factors

    def watched(state, stored, note):
        nonlocal read_
        read_ += 1
        ahead.append(read_ - finished)
        return original(state, stored, note)

    def count(done, total):
        nonlocal finished
        finished = done

    monkeypatch.setattr("lora2_core.rank_tools.adapters.load_factors", watched)
    compress(open_adapter(path), Cut(rank=2), on_component=count)
    assert read_ == 40 and max(ahead) <= 2 * os.cpu_count() + 2


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path):
    path = write(adapter(0, 8), tmp_path / "big.safetensors", precision="fp16")
    a = open_adapter(path)
    os.truncate(path, path.stat().st_size - 2000)
    with pytest.raises(LoRA2Error, match=r"big\.safetensors has become shorter"):
        compress(a, Cut(rank=2))
    path.unlink()
    with pytest.raises(LoRA2Error, match=r"big\.safetensors cannot be read"):
        compress(a, Cut(rank=2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float64])
def test_other_floating_points_are_read(tmp_path, dtype):
    state = {k: t.to(dtype) if t.ndim else t for k, t in adapter(0, 4).items()}
    save_file(state, tmp_path / "x.safetensors")
    found = deltas(merge([Ingredient(open_adapter(tmp_path / "x.safetensors"))]).state)
    expected = {n: f.delta() for n, f in components(LoraState(state)).items()}
    assert all(error(found[name], delta) < 1e-6 for name, delta in expected.items())


def test_a_file_in_pefts_names_comes_out_in_kohyas(tmp_path):
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {
        f"{name}.lora_A.weight": torch.randn(4, 24),
        f"{name}.lora_B.weight": torch.randn(24, 4),
    }
    save_file(tensors, tmp_path / "peft.safetensors")
    outcome = compress(open_adapter(tmp_path / "peft.safetensors"), Cut(rank=4))
    [(found, factors)] = components(outcome.state).items()
    assert found == f"{STEM}attn1_to_q"
    expected = tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
    assert error(factors.delta(), expected) < 1e-5


def test_a_file_of_another_model_keeps_its_names(tmp_path):
    name = "transformer.single_transformer_blocks.0.attn.to_q"
    tensors = {
        f"{name}.lora_A.weight": torch.randn(4, 24),
        f"{name}.lora_B.weight": torch.randn(24, 4),
    }
    save_file(tensors, tmp_path / "flux.safetensors")
    a = open_adapter(tmp_path / "flux.safetensors")
    expected = tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
    for state in (compress(a, Cut(rank=4)).state, LoraState(dict(expand(a, 9)))):
        assert set(state) == set(tensors)
        path = write(state, tmp_path / f"{len(state)}{id(state)}.safetensors", precision="fp32")
        assert error(components(read(path))[name].delta(), expected) < 1e-5


def test_a_broken_file_is_named(tmp_path):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"x" * 100)
    with pytest.raises(LoRA2Error, match=r"broken\.safetensors"):
        open_adapter(path)
    save_file({"lora_unet_x.hada_w1_a": torch.ones(2, 2)}, tmp_path / "loha.safetensors")
    with pytest.raises(LoRA2Error, match=r"loha\.safetensors.*LoHa"):
        open_adapter(tmp_path / "loha.safetensors")
