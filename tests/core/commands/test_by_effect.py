"""compress and merge by effect, as a user calls them, on the demo model."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lora2_core.__main__ import main
from lora2_core.commands import material
from lora2_core.drawn_world import load_subjects, photograph
from lora2_core.files.adapter_file import components, read
from lora2_core.files.effect_note import read_effect_note
from lora2_core.files.metadata import read_absent

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"  # KOALA's 3, SDXL's 4


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number, (picture, caption) in enumerate(
        photograph(load_subjects()["tiger clock"], 2, seed=0)
    ):
        Image.fromarray(picture).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption)
    return folder


@pytest.fixture(scope="module")
def adapter(images, tmp_path_factory):
    """Of a few steps, without a note of its effects."""
    out = tmp_path_factory.mktemp("adapter") / "clock.safetensors"
    given = ["--steps", "3", "--method", "lora", "--r-init", "4", "--effect-share", "1"]
    more = ["--learning-rate", "1e-3", "--dtype", "fp32", "--precision", "fp32"]
    sources = ["--model", "demo", "--images", str(images)]
    assert main(["train", *sources, "--out", str(out), *given, *more]) == 0
    return out


@pytest.fixture
def asked(images):
    """What measures, in two passes."""
    return ["--model", "demo", "--images", str(images), "--passes", "2", "--dtype", "fp32"]


def ranks(path):
    return {name: factors.rank for name, factors in components(read(path)).items()}


def deltas(path):
    return {name: factors.delta() for name, factors in components(read(path)).items()}


def share_of(said):
    """Of the effect, in percent."""
    return float(said.split(" % of the effect kept")[0].split()[-1])


def close(one, other):
    return all(
        torch.allclose(delta, other[name], atol=1e-5 * float(other[name].abs().max()))
        for name, delta in one.items()
    )


def test_what_is_measured_once_is_cut_later_without_the_model(adapter, asked, tmp_path, capsys):
    whole, direct, later = (tmp_path / f"{n}.safetensors" for n in ("whole", "direct", "later"))
    assert main(["compress", str(adapter), str(whole), *asked]) == 0
    said = capsys.readouterr().out
    assert "measuring 2/2" in said and "100.00 % of the effect kept" in said
    assert ranks(whole) == ranks(adapter)
    assert close(deltas(whole), deltas(adapter))
    assert len(read_effect_note(read(whole).metadata)) == len(ranks(adapter))

    assert main(["compress", str(adapter), str(direct), "--effect", "0.9", *asked]) == 0
    assert 90 <= share_of(capsys.readouterr().out) < 100
    assert main(["compress", str(whole), str(later), "--effect", "0.9"]) == 0
    assert "measuring" not in capsys.readouterr().out
    assert ranks(later) == ranks(direct)
    assert close(deltas(later), deltas(direct))
    gone = set(ranks(adapter)) - set(ranks(direct))
    assert gone and set(read_absent(read(direct).metadata)) == gone


def test_a_budget_and_a_rank_by_effect(adapter, asked, tmp_path, capsys):
    small, low = tmp_path / "small.safetensors", tmp_path / "low.safetensors"
    assert main(["compress", str(adapter), str(small), "--budget-mb", "0.1", *asked]) == 0
    assert small.stat().st_size <= 100_000
    assert main(["compress", str(adapter), str(low), "--rank", "2", *asked]) == 0
    assert max(ranks(low).values()) == 2
    assert capsys.readouterr().out.count("% of the effect kept") == 2


def test_a_merge_is_measured_as_a_whole_and_says_what_it_was_made_of(
    adapter, asked, tmp_path, capsys
):
    exact, again, both = (tmp_path / f"{n}.safetensors" for n in ("exact", "again", "both"))
    two = [f"{adapter}=0.75", f"{adapter}=-0.25"]
    cut = ["--effect", "0.9", *asked]
    assert main(["merge", *two, "-o", str(both), *cut]) == 0
    said = capsys.readouterr().out
    assert "mean rank 8.0 →" in said and "% of the effect kept" in said
    metadata = read(both).metadata
    note = json.loads(metadata["lora2"])
    assert (note["method"], [one["weight"] for one in note["merged_from"]]) == (
        "merged",
        [0.75, -0.25],
    )
    assert "compressed" not in note and note["absent"]
    assert set(read_effect_note(metadata)) == set(ranks(both))

    assert main(["merge", *two, "-o", str(exact)]) == 0
    assert main(["compress", str(exact), str(again), *cut]) == 0
    assert ranks(again) == ranks(both)
    assert close(deltas(again), deltas(both))


@pytest.mark.parametrize("how", ["svd", "prefix"])
def test_another_choice_asks_no_model(adapter, asked, tmp_path, capsys, monkeypatch, how):
    monkeypatch.setattr(material, "load", lambda *_: pytest.fail("loaded"))
    out = tmp_path / "x.safetensors"
    assert main(["compress", str(adapter), str(out), "--rank", "2", "--how", how, *asked]) == 0
    said = capsys.readouterr()
    assert f"how is {how}, which asks no model" in said.err
    assert "% of the energy kept" in said.out


def test_text_encoders_stay_whole_and_are_named(adapter, asked, tmp_path, capsys):
    name = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
    more = {
        f"{name}.lora_down.weight": torch.ones(4, 768),
        f"{name}.lora_up.weight": torch.ones(768, 4),
        f"{name}.alpha": torch.tensor(4.0),
    }
    given, out = tmp_path / "te.safetensors", tmp_path / "x.safetensors"
    save_file(load_file(adapter) | more, given)
    assert main(["compress", str(given), str(out), "--effect", "0.5", *asked]) == 0
    said = capsys.readouterr().out
    assert f"1 of {len(ranks(given))} components ({name}) stay whole" in said
    assert 50 <= share_of(said) < 99  # of what is known
    assert ranks(out)[name] == 4
    assert sum(ranks(out).values()) < sum(ranks(given).values())


def test_the_model_tells_how_blocks_are_counted(asked, tmp_path, capsys):
    given, out = tmp_path / "one.safetensors", tmp_path / "x.safetensors"
    layer = material.DemoBackbone().denoiser.network.get_submodule(LAYER)
    up, down = torch.randn(layer.out_features, 4), torch.randn(4, layer.in_features)
    save_file({f"unet.{LAYER}.lora_A.weight": down, f"unet.{LAYER}.lora_B.weight": up}, given)
    assert main(["compress", str(given), str(out), "--rank", "2", *asked]) == 0
    assert list(ranks(out)) == ["lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q"]
    assert "nothing in" not in capsys.readouterr().out


EMPTY, SDXL = "EMPTY", "lora_unet_input_blocks_8_1_transformer_blocks_0_attn1_to_q"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "nothing limits the result"),
        (["--how", "effect"], "nothing limits the result"),
        (["--effect", "0.9"], "--model and --images"),
        (["--effect", "0"], "the share of the effect is 0"),
        (["--effect", "1.5", "ASKED"], r"the share of the effect is 1.5"),
        (["--effect", "nan", "ASKED"], "the share of the effect is nan"),
        (["--energy", "0.9", "ASKED"], "energy is 0.9, which is a share of Σσ²"),
        (["--model", "demo"], "model and images go together"),
        (["--rank", "2", "--images", EMPTY], "model and images go together"),
        (["--model", "demo", "--images", EMPTY], "holds no pictures"),
        (["--model", "gone", "ASKED IMAGES"], "gone does not exist"),
        (["ASKED", "--passes", "0"], "passes is 0"),
        (["ASKED", "--resolution", "100"], "resolution is 100"),
        (["OTHER", "ASKED"], "the model has no layer of other.safetensors"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(
    adapter, images, asked, tmp_path, capsys, arguments, named
):
    (tmp_path / EMPTY).mkdir()
    other = tmp_path / "other.safetensors"
    state = {
        f"{SDXL}.lora_down.weight": torch.ones(1, 8),
        f"{SDXL}.lora_up.weight": torch.ones(8, 1),
    }
    save_file(state, other)
    meant = {
        "ASKED": asked,
        "ASKED IMAGES": ["--images", str(images)],
        EMPTY: [str(tmp_path / EMPTY)],
        "OTHER": [],
    }
    file = other if "OTHER" in arguments else adapter
    given = [word for part in arguments for word in meant.get(part, [part])]
    before = sorted(tmp_path.iterdir())
    assert main(["compress", str(file), str(tmp_path / "x.safetensors"), *given]) == 2
    assert named in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
