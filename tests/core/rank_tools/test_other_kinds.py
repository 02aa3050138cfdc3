"""Rank tools on files that hold more than factors, and on products of other forms."""

import pytest
import reference
import torch
from safetensors.torch import load_file, save_file

from lora2_core.__main__ import main
from lora2_core.errors import LoRA2Error
from lora2_core.files.adapter_file import LoraState, components, read
from lora2_core.files.writing import write
from lora2_core.rank_tools import Cut, Ingredient, compress, expand, merge, open_adapter
from lora2_core.rank_tools import adapters as adapters_module
from lora2_core.rank_tools.blocks import parse_blocks
from lora2_core.rank_tools.spectra import Spectra
from lora2_core.ranks.rank_report import report

STEM = "input_blocks.4.1.transformer_blocks.0."
LAYER = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
NORM = "lora_unet_input_blocks_4_1_transformer_blocks_0_norm1"


def drawn(seed, shapes):
    draw = torch.Generator().manual_seed(seed)
    return {key: torch.randn(*shape, generator=draw) for key, shape in shapes.items()}


def host_trained(seed=0):
    """As the host's own training writes it."""
    q, norm = f"diffusion_model.{STEM}attn1.to_q", f"diffusion_model.{STEM}norm1"
    found = drawn(
        seed,
        {
            f"{q}.lora_down.weight": (4, 24),
            f"{q}.lora_up.weight": (16, 4),
            f"{q}.diff_b": (16,),
            f"{norm}.diff": (24,),
            f"{norm}.diff_b": (24,),
        },
    )
    return LoraState(found | {f"{q}.alpha": torch.tensor(1.0)})  # fmt: skip


BESIDE = {  # in the result → in host_trained
    f"{LAYER}.diff_b": f"diffusion_model.{STEM}attn1.to_q.diff_b",
    f"{NORM}.diff": f"diffusion_model.{STEM}norm1.diff",
    f"{NORM}.diff_b": f"diffusion_model.{STEM}norm1.diff_b",
}


def opened(state, name="it"):
    return open_adapter(state, name)


def delta(state, name=LAYER):
    return components(state)[name].delta()


def close(found, expected):
    scale = float(expected.double().norm())
    return torch.allclose(found.double(), expected.double(), atol=1e-5 * max(scale, 1))


# what lies beside


def test_norms_and_biases_travel_through_compress_and_expand_untouched():
    state = host_trained()
    small = compress(opened(state), Cut(rank=2))
    wide = expand(opened(state), 7)
    for found in (small.state, dict(wide)):
        for new, old in BESIDE.items():
            assert torch.equal(found[new], state[old])
    assert components(small.state)[LAYER].rank == 2
    assert close(delta(dict(wide)), delta(state, f"diffusion_model.{STEM}attn1.to_q"))
    assert len(wide) == len(list(wide)) == 6
    for text in (str(small), wide.beside):
        assert "beside: 2 biases, 1 norm" in text


def test_a_merge_adds_norms_and_biases_with_the_weights():
    one, other = host_trained(1), host_trained(2)
    found = merge([Ingredient(opened(one), 0.5), Ingredient(opened(other), 0.25)])
    for new, old in BESIDE.items():
        assert close(found.state[new], 0.5 * one[old] + 0.25 * other[old])
    assert "beside: 2 biases, 1 norm" in str(found)


def test_names_of_norms_of_two_origins_meet():
    one = host_trained(1)
    other = one | drawn(5, {f"{NORM}.w_norm": (24,), f"{NORM}.b_norm": (24,)})
    kohya = {key: tensor for key, tensor in other.items() if not key.startswith("diffusion_model")}
    kohya |= {f"{LAYER}.lora_down.weight": torch.ones(1, 24),
              f"{LAYER}.lora_up.weight": torch.ones(16, 1)}  # fmt: skip
    found = merge([Ingredient(opened(one)), Ingredient(opened(LoraState(kohya)), 2.0)]).state
    expected = one[BESIDE[f"{NORM}.diff"]] + 2 * kohya[f"{NORM}.w_norm"]
    assert close(found[f"{NORM}.diff"], expected)
    assert f"{NORM}.w_norm" not in found


def test_a_block_strength_scales_what_adds_up():
    state = host_trained()
    found = merge([Ingredient(opened(state), blocks=parse_blocks("down4=0.5"))]).state
    for new, old in BESIDE.items():
        assert close(found[new], 0.5 * state[old])
    shapes = {"lora_down.weight": (2, 24), "lora_up.weight": (24, 2)}
    state |= drawn(7, {f"diffusion_model.{STEM}ff.net.2.{end}": s for end, s in shapes.items()})
    none = merge([Ingredient(opened(state), self_attention=0.0)]).state
    assert f"{LAYER}.diff_b" not in none
    assert f"{NORM}.diff" in none


def test_a_budget_counts_what_lies_beside(tmp_path):
    state = host_trained()
    whole = drawn(9, {"diffusion_model.out.0.diff": (40_000,)})
    adapter = opened(LoraState(state | whole))
    outcome = compress(adapter, Cut(megabytes=0.0825), saved_as=torch.float16)
    path = write(outcome.state, tmp_path / "a.safetensors", precision="fp16")
    assert path.stat().st_size <= 82_500
    with pytest.raises(LoRA2Error, match="does not hold one rank"):
        compress(adapter, Cut(megabytes=0.08), saved_as=torch.float16)


def test_shapes_that_differ_are_named():
    one, other = host_trained(1), host_trained(2)
    other[BESIDE[f"{NORM}.diff"]] = torch.ones(25)
    with pytest.raises(LoRA2Error, match=rf"{NORM}\.diff.*24 in a.*25 in b"):
        merge([Ingredient(opened(one, "a")), Ingredient(opened(other, "b"))])
    shared = merge([Ingredient(opened(one, "a")), Ingredient(opened(other, "b"))], overlap=True)
    assert f"{NORM}.diff" not in shared.state
    assert "left out: 2 norms" in str(shared)


REST = {
    "replaced": (f"diffusion_model.{STEM}attn1.to_q.set_weight", (16, 24)),
    "DoRA": (f"diffusion_model.{STEM}attn1.to_q.dora_scale", (16, 1)),
    "OFT": (f"diffusion_model.{STEM}attn1.to_q.oft_blocks", (2, 8, 8)),
    "reshaped": (f"diffusion_model.{STEM}attn1.to_q.reshape_weight", (2,)),
    "GLoRA": (f"diffusion_model.{STEM}attn1.to_q.a1.weight", (16, 2)),
}


@pytest.mark.parametrize(("kind", "one"), REST.items(), ids=REST.keys())
def test_what_does_not_add_up_passes_alone_and_is_refused_by_name_beside_others(kind, one):
    key, shape = one
    state = LoraState(host_trained(1) | drawn(3, {key: shape}))
    new = LAYER + key.removeprefix(f"diffusion_model.{STEM}attn1.to_q")
    for found in (
        merge([Ingredient(opened(state))]).state,
        compress(opened(state), Cut(rank=2)).state,
        expand(opened(state)),
    ):
        assert torch.equal(found[new], state[key])  # fmt: skip
    a, b = opened(state, "a"), opened(host_trained(2), "b")
    for pair in ([a, b], [b, a]):
        with pytest.raises(LoRA2Error, match=rf"{kind}.*one after the other") as caught:
            merge([Ingredient(adapter) for adapter in pair])
        assert key in str(caught.value)
        assert "b" in str(caught.value)
    with pytest.raises(LoRA2Error, match=rf"{kind}.*one after the other"):
        merge([Ingredient(a), Ingredient(b)], overlap=True)
    with pytest.raises(LoRA2Error, match=r"cannot be scaled by 0\.5"):
        merge([Ingredient(a, 0.5)])
    with pytest.raises(LoRA2Error, match=r"cannot be scaled by 0\.5"):
        merge([Ingredient(a, blocks=parse_blocks("down4=0.5"))])
    assert new not in merge([Ingredient(a, 0.0), Ingredient(b)]).state


def test_what_does_not_add_up_passes_where_nobody_else_is():
    state = LoraState(host_trained(1) | {f"diffusion_model.{STEM}attn1.to_q.dora_scale":
                                         torch.rand(16, 1)})  # fmt: skip
    other = f"lora_unet_{STEM}attn2.to_q".replace(".", "_")
    apart = LoraState(drawn(4, {f"{other}.lora_down.weight": (2, 24),
                                f"{other}.lora_up.weight": (16, 2)}))  # fmt: skip
    found = merge([Ingredient(opened(state)), Ingredient(opened(apart), 0.5)]).state
    assert f"{LAYER}.dora_scale" in found
    assert close(delta(found), delta(state, f"diffusion_model.{STEM}attn1.to_q"))


def test_embeddings_travel_and_one_word_twice_is_refused():
    def holding(seed, word):
        return LoraState(host_trained(seed) | drawn(seed, {f"bundle_emb.{word}.clip_l": (2, 8)}))

    one, other = holding(1, "dog"), holding(2, "cat")
    found = merge([Ingredient(opened(one), 0.5), Ingredient(opened(other), 0.5)]).state
    for state, word in ((one, "dog"), (other, "cat")):
        assert torch.equal(found[f"bundle_emb.{word}.clip_l"], state[f"bundle_emb.{word}.clip_l"])
    with pytest.raises(LoRA2Error, match=r"bundle_emb\.dog\.clip_l.*in b too.*rename one"):
        merge([Ingredient(opened(one, "a")), Ingredient(opened(holding(3, "dog"), "b"))])


def test_strangers_are_carried_and_listed_but_not_into_a_merge():
    state = LoraState(host_trained(1) | {"logit_scale": torch.ones(1)})
    small = compress(opened(state), Cut(rank=2))
    assert "1 tensor not understood" in str(small)
    assert "logit_scale" in small.state
    both = merge([Ingredient(opened(state)), Ingredient(opened(host_trained(2)))])
    assert "left out: 1 tensor not understood" in str(both)
    assert "logit_scale" not in both.state


def test_one_thing_under_two_names_is_refused():
    state = LoraState(host_trained() | {f"diffusion_model.{STEM}attn1.to_q.lora_up.bias":
                                        torch.ones(16)})  # fmt: skip
    with pytest.raises(LoRA2Error, match=r"diff_b' and '.*lora_up\.bias' are the same"):
        opened(state)


def test_the_bias_of_a_factor_is_scaled_with_it():
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    state = LoraState(drawn(1, {f"{name}.lora_A.weight": (2, 640), f"{name}.lora_B.weight":
                                (640, 2), f"{name}.lora_B.bias": (640,)}))  # fmt: skip
    state[f"{name}.alpha"] = torch.tensor(6.0)
    for found in (compress(opened(state), Cut(rank=1)).state, expand(opened(state), 4)):
        assert torch.equal(found[f"{LAYER}.diff_b"], 3 * state[f"{name}.lora_B.bias"])


# products of other forms


def mixed(seed=0, alpha=1.5):
    """A LoHa, a LoKr and a LoRA; and the updates of the first two."""
    loha, lokr = LAYER, LAYER.replace("to_q", "to_k")
    found = drawn(seed, {f"{loha}.hada_w1_a": (16, 2), f"{loha}.hada_w1_b": (2, 24),
                         f"{loha}.hada_w2_a": (16, 3), f"{loha}.hada_w2_b": (3, 24),
                         f"{lokr}.lokr_w1": (4, 3), f"{lokr}.lokr_w2_a": (4, 2),
                         f"{lokr}.lokr_w2_b": (2, 8)})  # fmt: skip
    p = found.__getitem__
    updates = {
        loha: reference.loha(*(p(f"{loha}.hada_w{n}_{f}") for n in (1, 2) for f in "ab"), alpha),
        lokr: reference.lokr(
            p(f"{lokr}.lokr_w1"), p(f"{lokr}.lokr_w2_a") @ p(f"{lokr}.lokr_w2_b"), alpha, 2
        ),
    }
    state = LoraState(found | {f"{name}.alpha": torch.tensor(alpha) for name in updates})
    plain = LAYER.replace("to_q", "to_v")
    state |= drawn(seed, {f"{plain}.lora_down.weight": (2, 24), f"{plain}.lora_up.weight": (16, 2)})
    return LoraState(state), updates


def test_a_merge_of_several_kinds_is_exact():
    one, first = mixed(1)
    other, second = mixed(2, alpha=-1.0)
    plain = LoraState(drawn(3, {f"{LAYER}.lora_down.weight": (2, 24),
                                f"{LAYER}.lora_up.weight": (16, 2)}))  # fmt: skip
    found = merge([Ingredient(opened(one), 0.5), Ingredient(opened(other), 0.25),
                   Ingredient(opened(plain))]).state  # fmt: skip
    for name, update in first.items():
        own = delta(plain) if name == LAYER else 0
        assert close(delta(found, name), 0.5 * update + 0.25 * second[name] + own)
    assert not any("hada" in key or "lokr" in key for key in found)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_a_cut_of_another_form_is_the_best_of_its_rank(rank):
    state, updates = mixed()
    outcome = compress(opened(state), Cut(rank=rank))
    for row in outcome.rows:
        if row.name not in updates:
            continue
        u, s, vt = torch.linalg.svd(updates[row.name], full_matrices=False)
        assert row.before == 6
        assert close(delta(outcome.state, row.name), (u[:, :rank] * s[:rank]) @ vt[:rank])
        share = float(s[:rank].square().sum() / s.square().sum())
        assert row.retained == pytest.approx(share, abs=1e-5)


def test_expanding_another_form_keeps_its_update():
    state, updates = mixed()
    found = dict(expand(opened(state), 9))
    for name, update in updates.items():
        assert components(found)[name].rank == 9
        assert close(delta(found, name), update)


def test_spectra_of_another_form():
    state, updates = mixed()
    known = Spectra(opened(state)).all()
    for name, update in updates.items():
        sigma = torch.linalg.svdvals(update)[:6]
        assert torch.allclose(torch.tensor(known[name].sigma).double()[:6], sigma, atol=1e-4)
        assert known[name].alpha == 1.5


def test_a_report_says_the_kind_and_what_lies_beside():
    state, _ = mixed()
    state |= drawn(2, {f"{NORM}.w_norm": (24,), f"{LAYER}.dora_scale": (16, 1)})
    found = report(LoraState(state))
    kinds = {row["name"]: row.get("kind") for row in found["components"]}
    assert list(kinds.values()) == ["DoRA LoHa", "LoKr", None]
    assert [row["rank"] for row in found["components"]] == [6, 6, 2]
    assert found["components"][0]["bytes"] == 4 * (2 * 40 + 3 * 40 + 1)
    assert found["beside"] == {"norm": 1, "DoRA magnitude": 1}


def test_factors_beyond_memory_are_refused_and_can_be_cut(monkeypatch):
    monkeypatch.setattr(adapters_module, "_MOST", 100)
    state, _ = mixed()
    for work in (lambda a: merge([Ingredient(a)]), expand):
        with pytest.raises(LoRA2Error, match=r"LoHa or LoKr would take.*compress"):
            work(opened(state))
    assert compress(opened(state), Cut(rank=1)).rows[0].after == 1


@pytest.mark.parametrize("shape", [(16, 1), (1, 24)])
def test_a_dora_keeps_its_magnitudes_and_turns_the_weight_as_before(shape):
    state = host_trained()
    key = f"diffusion_model.{STEM}attn1.to_q.dora_scale"
    state[key] = torch.rand(shape)
    found = compress(opened(state), Cut(rank=4)).state
    assert torch.equal(found[f"{LAYER}.dora_scale"], state[key])
    if shape == (16, 1):
        weight = drawn(7, {"w": (16, 24)})["w"]
        old, new = delta(state, f"diffusion_model.{STEM}attn1.to_q"), delta(found)
        size = state[key].flatten()
        assert close(reference.dora(weight, new, size), reference.dora(weight, old, size))


def test_pefts_dora_becomes_kohyas():
    name = "base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    state = LoraState(drawn(1, {f"{name}.lora_A.weight": (2, 640), f"{name}.lora_B.weight":
                                (640, 2), f"{name}.lora_magnitude_vector": (640,)}))  # fmt: skip
    found = compress(opened(state), Cut(rank=1)).state
    magnitude = state[f"{name}.lora_magnitude_vector"]
    assert torch.equal(found[f"{LAYER}.dora_scale"], magnitude[:, None])


def test_the_command_line_carries_and_says_it(tmp_path, capsys):
    source = tmp_path / "host.safetensors"
    save_file(dict(host_trained()), source)
    for words in (["compress", str(source), "--rank", "2"], ["expand", str(source), "--rank", "8"]):
        out = tmp_path / f"{words[0]}.safetensors"
        assert main([words[0], words[1], str(out), *words[2:]]) in (0, None)
        assert "beside: 2 biases, 1 norm" in capsys.readouterr().out
        assert set(BESIDE) <= set(load_file(out))
        assert set(components(read(out))) == {LAYER}
    assert main(["inspect", str(source)]) in (0, None)
    assert "beside: 2 biases, 1 norm" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_whole_numbers_of_a_stranger_go_along_as_they_are(tmp_path, dtype):
    stray = torch.tensor([1, 0, 1]).to(dtype)
    state = LoraState(host_trained() | {"trained_for": stray})
    for number, found in enumerate(
        (compress(opened(state), Cut(rank=2)).state, expand(opened(state), 8))
    ):
        path = write(
            LoraState(dict(found), {}), tmp_path / f"{number}.safetensors", precision="fp32"
        )
        kept = load_file(path)["trained_for"]
        assert kept.dtype == dtype and torch.equal(kept, stray)
    outcome = compress(opened(state), Cut(megabytes=0.01), saved_as=torch.float16)
    path = write(outcome.state, tmp_path / "small.safetensors", precision="fp16")
    assert path.stat().st_size <= 10_000
