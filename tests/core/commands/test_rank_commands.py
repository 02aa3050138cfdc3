"""expand, merge and compress, as a user calls them."""

import json

import pytest
import torch
from peers import error
from safetensors.torch import save_file

from lora2_core.__main__ import main
from lora2_core.files.adapter_file import LoraState, components, read
from lora2_core.files.metadata import training_metadata
from lora2_core.files.writing import write


@pytest.fixture
def files(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for name, ranks in (("a", (1, 4, 9)), ("b", (6, 6, 6))):
        state = LoraState()
        for block, rank in enumerate(ranks):
            module = f"lora_unet_input_blocks_4_1_transformer_blocks_{block}_attn2_to_q"
            state[f"{module}.lora_down.weight"] = torch.randn(rank, 32, generator=generator)
            state[f"{module}.lora_up.weight"] = torch.randn(32, rank, generator=generator)
            state[f"{module}.alpha"] = torch.tensor(2.0)
        write(state, tmp_path / f"{name}.safetensors", precision="fp16")
    return tmp_path


def deltas(path):
    return {name: factors.delta() for name, factors in components(read(path)).items()}


def test_merge(files, capsys):
    out = files / "sum.safetensors"
    a, b = files / "a.safetensors", files / "b.safetensors"
    assert main(["merge", f"{a}=0.8", f"{b}=0.5:1:2", "-o", str(out), "--precision", "fp32"]) == 0
    said = capsys.readouterr().out
    assert "merging 3/3" in said and "100.00 % of the energy kept" in said
    one, two = deltas(a), deltas(b)
    for name, delta in deltas(out).items():
        assert error(delta, 0.8 * one[name] + 0.5 * 2 * two[name]) < 1e-5


def test_a_negative_weight_and_blocks_of_one_file(files):
    out = files / "sum.safetensors"
    a, b = files / "a.safetensors", files / "b.safetensors"
    given = [f"{a}=-0.5", f"{b}=2", "--blocks", f"{b}:down=0.5", "--precision", "fp32"]
    assert main(["merge", *given, "-o", str(out)]) == 0
    one, two = deltas(a), deltas(b)
    for name, delta in deltas(out).items():
        assert error(delta, two[name] - 0.5 * one[name]) < 1e-5
    listed = json.loads(read(out).metadata["lora2"])["merged_from"]
    assert [(x["weight"], x.get("blocks")) for x in listed] == [(-0.5, None), (2.0, "down=0.5")]


def test_compress_and_its_precision(files, capsys):
    out = files / "small.safetensors"
    assert main(["compress", str(files / "a.safetensors"), str(out), "--rank", "2"]) == 0
    state = read(out)
    assert {f.rank for f in components(state).values()} == {1, 2}
    assert {t.dtype for n, t in state.items() if "lora_" in n and ".weight" in n} == {torch.float16}
    assert "mean rank 4.7 → 1.7" in capsys.readouterr().out


def test_expand(files):
    out = files / "even.safetensors"
    assert main(["expand", str(files / "a.safetensors"), str(out), "--rank", "16"]) == 0
    assert {f.rank for f in components(read(out)).values()} == {16}
    expected = deltas(files / "a.safetensors")
    assert all(error(delta, expected[name]) < 1e-3 for name, delta in deltas(out).items())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["merge", "a.safetensors=0", "-o", "x.safetensors"], "every weight is 0"),
        (["merge", "a.safetensors=-inf", "-o", "x.safetensors"], "is -inf"),
        (["merge", "a" * 400, "-o", "x.safetensors"], "aaa"),
        (["merge", "a.safetensors", "--blocks", "down=0", "-o", "x.safetensors"], "FILE:BLOCKS"),
        (
            ["merge", "a.safetensors", "--blocks", "b.safetensors:up=1", "-o", "x.safetensors"],
            "one of the files that are merged",
        ),
        (
            ["merge", "a.safetensors", "--blocks", "a.safetensors:left=1", "-o", "x.safetensors"],
            "blocks has 'left=1'",
        ),
        (["merge", "a.safetensors=nan", "-o", "x.safetensors"], "is nan"),
        (["merge", "a.safetensors=1:2", "-o", "x.safetensors"], "FILE=WEIGHT:SELF:CROSS"),
        (["merge", "a.safetensors=", "-o", "x.safetensors"], "FILE=WEIGHT:SELF:CROSS"),
        (["merge", "c.safetensors", "-o", "x.safetensors"], "c.safetensors"),
        (["merge", "a.safetensors", "-o", "b.safetensors"], "exists already"),
        (["compress", "a.safetensors", "x.safetensors", "--rank", "0"], "rank is 0"),
        (["compress", "a.safetensors", "x.safetensors", "--budget-mb", "0.0001"], "at least"),
        (["compress", "a.safetensors", "x.txt", "--rank", "2"], "x.txt"),
        (["expand", "a.safetensors", "x.safetensors", "--rank", "3"], "compress"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(files, monkeypatch, capsys, arguments, named):
    monkeypatch.chdir(files)
    before = sorted(files.iterdir())
    assert main(arguments) == 2
    assert named in capsys.readouterr().err
    assert sorted(files.iterdir()) == before


def test_a_name_may_hold_an_equals_sign(files, monkeypatch):
    monkeypatch.chdir(files)
    (files / "a.safetensors").rename(files / "a=1.safetensors")
    assert main(["merge", "a=1.safetensors", "-o", "x.safetensors"]) == 0
    assert main(["merge", "a=1.safetensors=0.5", "-o", "y.safetensors"]) == 0
    one, half = deltas(files / "x.safetensors"), deltas(files / "y.safetensors")
    assert all(error(half[name], 0.5 * one[name]) < 1e-3 for name in one)


def test_a_folder_that_peft_saved_is_an_adapter(tmp_path, capsys):
    """Its weights, with the scale of the settings beside them."""
    folder = tmp_path / "dog"
    folder.mkdir()
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    down, up = torch.randn(4, 640), torch.randn(640, 4)
    save_file({f"base_model.model.{layer}.lora_A.weight": down,
               f"base_model.model.{layer}.lora_B.weight": up},
              folder / "adapter_model.safetensors")  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 16}))
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    for number, command in enumerate((
        ["merge", f"{folder}=0.5", "-o", "OUT", "--precision", "fp32"],
        ["compress", str(folder), "OUT", "--rank", "4", "--precision", "fp32"],
        ["expand", str(folder), "OUT", "--rank", "8", "--precision", "fp32"],
    )):  # fmt: skip
        out = tmp_path / f"{number}.safetensors"
        assert main([str(out) if part == "OUT" else part for part in command]) == 0
        assert "nothing in dog tells which base model" in capsys.readouterr().out
        weight = 0.5 if command[0] == "merge" else 1
        assert error(deltas(out)[name], weight * 4 * up @ down) < 1e-5
    assert main(["inspect", str(folder)]) == 0
    assert "rank 4 to 4" in capsys.readouterr().out
    assert main(["ranks", str(folder), "-o", str(tmp_path / "map.json")]) == 0
    assert "nothing in dog tells" in capsys.readouterr().out
    assert main(["ranks", str(folder), "-o", str(tmp_path / "b.json"), "--base", "sdxl"]) == 0
    assert "note" not in capsys.readouterr().out


def test_a_folder_without_an_adapter_is_no_file(tmp_path, capsys):
    for command in (["inspect", str(tmp_path)], ["ranks", str(tmp_path), "-o", "x.json"]):
        assert main(command) != 0
        assert "is not a file" in capsys.readouterr().err


def test_components_of_rank_0_are_counted(files, tmp_path, capsys):
    state, left_out = (
        read(files / "a.safetensors"),
        "input_blocks.4.1.transformer_blocks.7.attn2.to_q",
    )
    state.metadata = training_metadata(
        method="lora2", settings={}, ranks={left_out: (None, 0)}, absent={left_out: (32, 32)}
    )
    path = write(state, tmp_path / "some.safetensors", precision="fp16")
    assert main(["inspect", str(path)]) == 0
    said = capsys.readouterr().out
    assert "rank 0 to 9, mean 3.50, 1 of rank 1, 1 of rank 0\n" in said
    assert main(["inspect", str(files / "a.safetensors")]) == 0
    assert "1 of rank 1\n" in capsys.readouterr().out
    assert main(["ranks", str(path), str(path), "-o", str(tmp_path / "map.json")]) == 0
    assert "2 of rank 0 in the files; the map is a start" in capsys.readouterr().out
    assert main(["ranks", str(tmp_path / "map.json"), "-o", str(tmp_path / "again.json")]) == 0
    assert "of rank 0" not in capsys.readouterr().out
