"""The alpha of each component, from wherever a writer puts it."""

import json
import math

import pytest
import torch
from peers import deltas, error, small_unet
from peft import LoraConfig, get_peft_model
from reference import peft_scale
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from lora2_core.errors import LoRA2Error
from lora2_core.files.adapter_file import LoraState, components, read
from lora2_core.files.alphas import alphas
from lora2_core.files.header import read_header
from lora2_core.files.hosted import hosted
from lora2_core.files.lazy import LazyState
from lora2_core.files.peft_folder import stamp
from lora2_core.files.stored import seen, stored_components
from lora2_core.files.writing import write
from lora2_core.rank_tools import Cut, Ingredient, compress, expand, merge, open_adapter
from lora2_core.rank_tools.spectra import Spectra
from lora2_core.ranks.rank_report import report, report_from_header

Q = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
NAMES = {
    "prefixed": f"unet.{Q}",
    "doubled": f"unet.unet.{Q}",
    "nested": f"base_model.model.unet.base_model.model.{Q}",
    "half underscores": f"unet.{Q.replace('.', '_', 3)}",
    "bare": Q,
    "peft": f"base_model.model.{Q}",
}


def factors(rank: int, n: int = 48, m: int = 40):
    draw = torch.Generator().manual_seed(rank)
    return torch.randn(rank, n, generator=draw), torch.randn(m, rank, generator=draw)


def pair(name: str, rank: int = 4) -> dict[str, torch.Tensor]:
    down, up = factors(rank)
    return {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}


def noted(name: str, note: object, rank: int = 4) -> LoraState:
    return LoraState(pair(name, rank), {"lora_adapter_metadata": json.dumps(note)})


ALPHAS = [
    torch.tensor(value).to(dtype).reshape(shape)
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
                  torch.float8_e5m2, torch.float64, torch.int64)
    for shape in ((), (1,), (1, 1), (1, 1, 1, 1))
    for value in (8.0, 0.0, -2.0)
]  # fmt: skip


@pytest.mark.parametrize("alpha", ALPHAS, ids=lambda a: f"{a.dtype} {list(a.shape)} {float(a)}")
def test_an_alpha_of_one_element_is_read_and_written(tmp_path, alpha):
    """Whatever its shape and dtype; 0 and negative ones, too."""
    down, up = factors(4)
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    state = {
        f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": alpha,
    }  # fmt: skip
    save_file(state, tmp_path / "in.safetensors")
    lazy = LazyState(tmp_path / "in.safetensors")
    assert components(lazy)[name].alpha == float(alpha)
    expected = float(alpha) / 4 * up @ down
    for source in (lazy, LoraState(state)):
        out = tmp_path / f"{type(source).__name__}.safetensors"
        adapter = open_adapter(source)
        assert torch.allclose(torch.mm(*adapter.factors(name)), expected, atol=1e-6)
        for made in (merge([Ingredient(adapter)]).state, dict(expand(adapter, 6)), source):
            written = write(LoraState(made), out, precision="fp32")
            assert torch.allclose(components(read(written))[name].delta(), expected, atol=1e-6)
            out.unlink()
    applied = hosted(lazy, stored_components(seen(lazy)), {name: name})
    assert applied[f"{name}.alpha"].item() == float(alpha)


@pytest.mark.parametrize("alpha", [math.nan, math.inf, -math.inf, 1e300])
def test_an_alpha_that_no_loader_can_hold_is_named(alpha):
    down, up = factors(4)
    state = {"x.lora_A.weight": down, "x.lora_B.weight": up}
    state["x.alpha"] = torch.tensor([[alpha]], dtype=torch.float64)
    with pytest.raises(LoRA2Error, match=r"x\.alpha.*finite"):
        components(state)


def test_factors_in_fp8_are_expanded():
    down, up = (factor.to(torch.float8_e4m3fn) for factor in factors(4))
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    for keys in (("lora_down", "lora_up"), ("lora_A", "lora_B")):
        for named in (name, "another.model"):
            state = {f"{named}.{keys[0]}.weight": down, f"{named}.{keys[1]}.weight": up}
            found = components(dict(expand(open_adapter(state), 6)))[named]
            assert found.rank == 6
            assert torch.allclose(found.delta(), up.float() @ down.float(), atol=1e-6)


# --- PEFT's settings ------------------------------------------------------------------------------


def doors(state: LoraState, path) -> dict[str, float]:
    """Scale of the adapter's only component by everything that reads one."""
    [name] = components(state)
    down, up = state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"]
    product = up @ down
    size = lambda delta: float((delta * product).sum() / product.square().sum())  # noqa: E731
    if path is not None:
        save_file(dict(state), path, metadata=state.metadata)
    found = {}
    for kind, source in (("memory", state), ("file", path and LazyState(path))):
        if source is None:
            continue
        adapter = open_adapter(source)
        [component] = adapter.components
        listed = stored_components(seen(source))
        placed = hosted(source, listed, {name: "x"})
        alpha = placed["x.alpha"].item() if "x.alpha" in placed else len(down)
        whole = float(product.norm())
        sigma = Spectra(adapter).of(name).sigma
        found |= {
            f"{kind} components": size(components(source)[name].delta()),
            f"{kind} open_adapter": size(torch.mm(*adapter.factors(component))),
            f"{kind} merge": size(only(merge([Ingredient(adapter)]).state)),
            f"{kind} compress": size(only(compress(adapter, Cut(rank=4)).state)),
            f"{kind} expand": size(only(dict(expand(adapter, 9)))),
            f"{kind} LoRA² Load": alpha / len(down),
            f"{kind} spectra": sum(s * s for s in sigma) ** 0.5 / whole,
            f"{kind} alphas": alphas(source, listed)[name] / len(down),
        }
    found["report"] = report(state)["components"][0]["alpha"] / len(down)
    if path is not None:
        row = report_from_header(read_header(path))["components"][0]
        found["header"] = row["alpha"] / len(down)
    return found


def only(state):
    [found] = components(state).values()
    return found.delta()


SETTINGS = {
    "lora_alpha": {"lora_alpha": 16},
    "a number with a point": {"lora_alpha": 2.5},
    "stabilised": {"lora_alpha": 16, "use_rslora": True},
    "pattern": {"lora_alpha": 16, "alpha_pattern": {"attn1.to_q": 2}},
    "short pattern": {"lora_alpha": 16, "alpha_pattern": {"to_q": 2}},
    "not at a dot": {"lora_alpha": 16, "alpha_pattern": {"o_q": 2}},
    "anchored": {"lora_alpha": 16, "alpha_pattern": {f"^{Q}": 2}},
    "anchored at the end, too": {"lora_alpha": 16, "alpha_pattern": {f"^{Q}$": 2}},
    "anchored elsewhere": {"lora_alpha": 16, "alpha_pattern": {"^attn1.to_q": 2}},
    "escaped dots": {"lora_alpha": 16, "alpha_pattern": {Q.replace(".", "\\."): 2}},
    "the first counts": {"lora_alpha": 16, "alpha_pattern": {"to_q": 2, Q: 3}},
    "the first, anchored": {"lora_alpha": 16, "alpha_pattern": {f"^{Q}": 3, "to_q": 2}},
    "another layer's": {"lora_alpha": 16, "alpha_pattern": {"to_k": 2, "proj_in": 8}},
    "stabilised pattern": {"lora_alpha": 1, "use_rslora": True, "alpha_pattern": {"to_q": 8}},
    "ranks by an expression": {"lora_alpha": 16, "rank_pattern": {"to_[qk]": 4}},
    "an expression behind": {"lora_alpha": 16, "alpha_pattern": {"to_q": 2, "(x+)+y": 3}},
}


@pytest.mark.parametrize("style", NAMES)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_pefts_settings_give_the_scale_by_every_door(tmp_path, settings, style):
    prefix = "unet." if "unet." in NAMES[style] else ""
    note = {f"{prefix}{key}": value for key, value in ({"r": 4} | settings).items()}
    expected = peft_scale(settings, Q, 4)
    found = doors(noted(NAMES[style], note), tmp_path / "x.safetensors")
    assert len(found) == 18
    assert {key: scale for key, scale in found.items() if abs(scale / expected - 1) > 1e-5} == {}


@pytest.mark.parametrize("alpha", [0, -3])
def test_an_alpha_of_zero_or_less_is_taken_as_it_is(alpha):
    state = noted(f"unet.{Q}", {"unet.lora_alpha": alpha})
    assert components(state)[f"unet.{Q}"].alpha == alpha


def test_settings_of_another_part_say_nothing():
    state = noted(f"unet.{Q}", {"text_encoder.lora_alpha": 16, "text_encoder.r": 4})
    assert components(state)[f"unet.{Q}"].alpha is None
    assert components(noted(f"unet.{Q}", {"unet.something": 1}))[f"unet.{Q}"].alpha is None


def test_an_alpha_tensor_goes_before_the_settings():
    state = noted(f"unet.{Q}", {"unet.lora_alpha": 16})
    state[f"unet.{Q}.alpha"] = torch.tensor(3.0)
    assert components(state)[f"unet.{Q}"].alpha == 3


UNTOLD = {
    "an expression": ({"lora_alpha": 16, "alpha_pattern": {".*attn1.*": 2}}, r"attn1.*names"),
    "that would run for ever": ({"lora_alpha": 1, "alpha_pattern": {"(x+)+y": 2}}, r"\(x\+\)"),
    "two dots": ({"lora_alpha": 16, "alpha_pattern": {"attn..to_q": 2}}, "attn..to_q"),
    "another rank": ({"lora_alpha": 16, "r": 8}, "for rank 8, but it has rank 4"),
    "another rank by a pattern": ({"lora_alpha": 16, "rank_pattern": {"to_q": 2}}, "for rank 2"),
    "none": ({"r": 4}, "no lora_alpha"),
    "text": ({"lora_alpha": "16"}, "lora_alpha.*16"),
    "true": ({"lora_alpha": True}, "lora_alpha.*True"),
    "infinite": ({"lora_alpha": math.inf}, "lora_alpha.*inf"),
    "no number": ({"lora_alpha": 16, "alpha_pattern": {"to_q": math.nan}}, "lora_alpha.*nan"),
    "a list of patterns": ({"lora_alpha": 16, "alpha_pattern": [1]}, "alpha_pattern"),
    "half stabilised": ({"lora_alpha": 16, "use_rslora": "yes"}, "use_rslora"),
    "another base": ({"lora_alpha": 16, "init_lora_weights": "pissa_niter_4"}, "pissa.*convert"),
}


@pytest.mark.parametrize("prefix", ["unet.", ""])
@pytest.mark.parametrize(("settings", "said"), UNTOLD.values(), ids=UNTOLD.keys())
def test_settings_that_do_not_tell_are_refused_by_name(tmp_path, settings, said, prefix):
    state = noted(f"unet.{Q}", {f"{prefix}{key}": value for key, value in settings.items()})
    adapter = open_adapter(state)
    [name] = adapter.components
    for read_it in (
        lambda: components(state),
        lambda: merge([Ingredient(adapter)]),
        lambda: compress(adapter, Cut(rank=1)),
        lambda: dict(expand(adapter)),
        lambda: hosted(state, stored_components(seen(state)), {f"unet.{Q}": name}),
    ):
        with pytest.raises(LoRA2Error, match=f"alpha of 'unet.{Q}' cannot be told.*{said}"):
            read_it()
    # the ranks can still be looked at
    save_file(dict(state), tmp_path / "x.safetensors", metadata=state.metadata)
    [row] = report_from_header(read_header(tmp_path / "x.safetensors"))["components"]
    assert (row["rank"], row["alpha"]) == (4, None)


@pytest.mark.parametrize(
    "text", ["{", "NaN", "[" * 100_000, "[]", "16", '{"unet.lora_alpha":1e999}']
)
def test_settings_that_are_no_settings_are_refused(text):
    with pytest.raises(LoRA2Error, match=f"alpha of 'unet.{Q}' cannot be told"):
        components(LoraState(pair(f"unet.{Q}"), {"lora_adapter_metadata": text}))


@pytest.mark.parametrize("text", ["", " "])
def test_no_settings_are_scale_one(text):
    found = components(LoraState(pair(f"unet.{Q}"), {"lora_adapter_metadata": text}))
    assert found[f"unet.{Q}"].scale == 1


# --- folders that PEFT saves ----------------------------------------------------------------------


def saved_by_peft(model, folder, **settings) -> dict[str, torch.Tensor]:
    """Module → the ΔW that PEFT itself applies."""
    config = LoraConfig(r=4, lora_alpha=16, init_lora_weights=False, **settings)
    peft = get_peft_model(model, config)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if ".lora_" in name:
                parameter.normal_()
    peft.save_pretrained(folder)
    return deltas(peft.base_model.model, "default")


VARIETIES = {
    "plain": {},
    "stabilised": {"use_rslora": True},
    "patterns": {"rank_pattern": {"attn2.to_k": 7}, "alpha_pattern": {"attn2.to_k": 3, "to_v": 5}},
    "anchored": {"alpha_pattern": {f"^{Q}": 2}, "rank_pattern": {f"^{Q}": 6}},
}


@pytest.mark.parametrize("settings", VARIETIES.values(), ids=VARIETIES.keys())
def test_a_folder_of_pefts_reads_with_the_same_update(tmp_path, settings):
    targets = ["to_q", "to_k", "to_v", "conv1"]
    expected = saved_by_peft(small_unet(), tmp_path / "p", target_modules=targets, **settings)
    for path in (tmp_path / "p", tmp_path / "p" / "adapter_model.safetensors"):
        found = components(read(path))
        assert set(found) == {f"base_model.model.{name}" for name in expected}
        for name, delta in expected.items():
            assert error(found[f"base_model.model.{name}"].delta(), delta) <= 1e-6
        adapter = open_adapter(path)
        for canonical, stored in adapter.components.items():
            delta = expected[stored.name.removeprefix("base_model.model.")]
            up, down = adapter.factors(canonical)
            assert error(up @ down, delta.flatten(1)) <= 1e-6


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_pefts_two_folders_are_one_adapter(tmp_path):
    """Each has the same prefix; the layers tell which is the text encoder's."""
    size = {"hidden_size": 16, "intermediate_size": 32, "projection_dim": 16}
    encoder = CLIPTextModel(
        CLIPTextConfig(**size, vocab_size=30, num_hidden_layers=2, num_attention_heads=2)
    )
    unet = saved_by_peft(small_unet(), tmp_path / "unet", target_modules=["to_q"])
    text = saved_by_peft(encoder, tmp_path / "text", target_modules=["q_proj", "fc1"])
    merged = merge([Ingredient(open_adapter(tmp_path / part)) for part in ("unet", "text")]).state
    found = components(merged)
    assert len(found) == len(unet) + len(text)
    for name, delta in text.items():
        one = found[f"lora_te1_text_model_{name.removeprefix('text_model.').replace('.', '_')}"]
        assert error(one.delta(), delta) <= 1e-6


def test_settings_beside_a_file_of_another_writer_are_not_its_own(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 16}))
    scales = {}
    for name, key in (("dog", f"unet.{Q}"), ("renamed", f"base_model.model.{Q}")):
        save_file(pair(key), tmp_path / f"{name}.safetensors")
        scales[name] = components(read(tmp_path / f"{name}.safetensors"))[key].scale
    assert scales == {"dog": 1, "renamed": 4}


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"{", b"[]", b"", b" "])
def test_settings_beside_that_cannot_be_read_are_named(tmp_path, raw):
    save_file(pair(f"base_model.model.{Q}"), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_bytes(raw)
    with pytest.raises(LoRA2Error, match="alpha"):
        components(read(tmp_path))


def test_a_change_of_the_settings_beside_is_a_change(tmp_path):
    path, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    save_file(pair(f"base_model.model.{Q}"), path)
    stamps = [stamp(path)]
    for text in ("{}", '{"r": 4}'):
        config.write_text(text)
        stamps.append(stamp(path))
    assert len(set(stamps)) == 3
    assert stamp(path) == stamps[-1]
