"""Rank maps: read, averaged, and where a run starts."""

import json
from dataclasses import replace

import pytest
import torch
import toy
import toy_runs

from lora2_core.__main__ import main
from lora2_core.errors import LoRA2Error
from lora2_core.files.adapter_file import LoraState
from lora2_core.files.writing import write
from lora2_core.ranks import rank_map, rank_report
from lora2_core.runs.packing import pack_result

KOHYA = (
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_{}",
    "lora_unet_input_blocks_5_1_transformer_blocks_0_attn2_to_{}",
)
DIFFUSERS = (
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_{}",
    "unet.down_blocks.1.attentions.1.transformer_blocks.0.attn2.to_{}",
)


def state(ranks, style=KOHYA, width=32, context=2048):
    """A LoRA of q and k of SDXL's first two blocks; ranks: (block, projection) → rank."""
    found = LoraState()
    for (block, projection), rank in ranks.items():
        name, into = style[block].format(projection), context if projection == "k" else width
        down, up = ("lora_down", "lora_up") if style == KOHYA else ("lora_A", "lora_B")
        found[f"{name}.{down}.weight"] = torch.ones(rank, into)
        found[f"{name}.{up}.weight"] = torch.ones(width, rank)
    return found


def report(ranks, **kind):
    return rank_report.report(state(ranks, **kind))


def test_the_mean_is_over_the_reports_that_have_a_layer_and_halves_round_up():
    reports = [
        report({(0, "q"): 1, (0, "k"): 4}),
        report({(0, "q"): 2, (1, "q"): 7}),
        report({(0, "q"): 1, (0, "k"): 9}),
    ]
    found = rank_map.of_report(rank_map.averaged(reports))
    assert found == {
        KOHYA[0].format("q"): 1,  # 4/3
        KOHYA[0].format("k"): 7,  # 6.5
        KOHYA[1].format("q"): 7,
    }


def test_files_of_unequal_naming_are_averaged_layer_by_layer():
    ranks = {(0, "q"): 2, (0, "k"): 4, (1, "q"): 6}
    more = {key: rank + 2 for key, rank in ranks.items()}
    both = [report(ranks), report(more, style=DIFFUSERS)]
    assert both[1]["components"][0]["name"].startswith("unet.")
    mean = rank_map.averaged(both)
    assert sorted(rank_map.of_report(mean).values()) == [3, 5, 7]
    whole = report({key: rank + 1 for key, rank in ranks.items()})
    assert mean["totals"]["parameters"] == whole["totals"]["parameters"]
    assert (mean["rows"], mean["columns"]) == (whole["rows"], whole["columns"])
    assert mean["totals"]["bytes"] == 2 * whole["totals"]["parameters"]


def test_one_report_comes_back_as_it_was_in_its_ranks():
    one = report({(0, "q"): 3, (1, "k"): 12})
    assert rank_map.of_report(rank_map.averaged([one])) == rank_map.of_report(one)


@pytest.mark.parametrize(
    "bad",
    [
        {}, [], None, "x", {"components": []}, {"components": [{"name": "a"}]}, {"components": 3},
        {"components": [{"name": "a", "rank": "3"}]}, {"components": [{"name": "a", "rank": -1}]},
        {"components": [{"name": "a", "rank": True}]}, {"components": ["ab"]},
    ],
)  # fmt: skip
def test_what_is_no_report_is_refused(bad):
    with pytest.raises(LoRA2Error, match="no rank report"):
        rank_map.parse(json.dumps(bad))


def test_text_that_is_no_json_and_reports_that_say_too_little_are_refused():
    for text in ("", "{", "[" * 100_000):
        with pytest.raises(LoRA2Error, match="not JSON"):
            rank_map.parse(text)
    for row in ({}, {"shape": [4]}, {"shape": [4, "x"]}, {"shape": [4, 4], "section": 3}):
        with pytest.raises(LoRA2Error, match="says too little of 'a'"):
            rank_map.averaged([{"components": [{"name": "a", "rank": 3, **row}]}])
    with pytest.raises(LoRA2Error, match="at least one"):
        rank_map.averaged([])
    with pytest.raises(LoRA2Error, match="one base model"):
        rank_map.averaged([report({(0, "q"): 1}), report({(0, "q"): 1}, width=64)])


def names():
    found = toy_runs.run(replace(toy_runs.BASE, steps=1), toy.ToyDenoiser())
    return [row["name"] for row in rank_report.report(pack_result(found))["components"]]


def starting(ranks, **settings):
    seen = []
    config = replace(toy_runs.BASE, **{"steps": 3, **settings})
    result = toy_runs.run(config, toy.ToyDenoiser(), seen.append, ranks)
    return seen, result


@pytest.mark.parametrize("method", ["lora2", "lora"])
def test_a_run_starts_from_the_map_layer_by_layer_and_keeps_to_it_if_asked(method):
    ranks = {name: 1 + index % 7 for index, name in enumerate(names())}
    seen, result = starting(ranks, method=method, rank_freeze=1.0)
    assert seen[0].ranks == tuple(ranks.values())
    found = rank_report.report(pack_result(result))["components"]
    assert {row["name"]: row["rank"] for row in found} == ranks


def test_ac_lora_trains_the_rows_of_the_map_and_cuts_them_by_what_they_learned():
    ranks = {name: 2 + index % 6 for index, name in enumerate(names())}
    seen, result = starting(ranks, method="ac_lora", steps=12, ac_period=1.0)
    assert all(info.ranks == tuple(ranks.values()) for info in seen[:-1])
    found = rank_report.report(pack_result(result))["components"]
    assert all(row["rank"] <= ranks[row["name"]] for row in found)
    with pytest.raises(LoRA2Error, match=r"rank_freeze is 1.*choose"):
        starting(ranks, method="ac_lora", rank_freeze=1.0)


def test_ranks_of_a_map_are_learned_from_there_on_and_may_lie_above_r_max():
    ranks = dict.fromkeys(names(), 12)
    assert toy_runs.BASE.r_max <= 12
    seen, _ = starting(ranks, steps=40, rank_rate=30.0, lambda_r=1e-2, r_max=6, r_init=2)
    assert max(seen[0].ranks) > 6
    assert sum(seen[-1].ranks) < sum(seen[0].ranks)


def test_what_the_map_does_not_name_starts_as_ever_and_what_no_layer_can_hold_is_cut():
    first, second = names()[:2]
    seen, _ = starting({first: 500, second: 0}, rank_freeze=1.0)
    assert seen[0].ranks[:2] == (16, 1)
    assert set(seen[0].ranks[2:]) == {toy_runs.BASE.r_init}


def test_a_map_of_another_network_is_refused():
    with pytest.raises(LoRA2Error, match="of another network"):
        starting({"lora_unet_elsewhere": 3})


def test_the_command_averages_files_and_json(tmp_path, capsys):
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    write(state({(0, "q"): 2, (0, "k"): 4}), files[0], precision="fp16")
    write(state({(0, "q"): 4, (0, "k"): 8}), files[1], precision="fp16")
    out = tmp_path / "mean.json"
    assert main(["ranks", *map(str, files), "-o", str(out)]) == 0
    assert "mean 4.50" in capsys.readouterr().out
    assert sorted(rank_map.of_report(json.loads(out.read_text())).values()) == [3, 6]
    again = tmp_path / "again.json"
    assert main(["ranks", str(out), str(files[1]), "-o", str(again)]) == 0
    assert sorted(rank_map.of_report(json.loads(again.read_text())).values()) == [4, 7]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["a.json", "-o", "x.json"], "a.json: the rank report is not JSON"),
        (["none.json", "-o", "x.json"], "cannot read none.json"),
        (["b.json", "-o", "a.json"], "exists already"),
        (["b.json", "-o", "x.txt"], "x.txt"),
        (["b.json", "-o", "none/x.json"], "cannot write"),
        (["c.safetensors", "-o", "x.json"], "c.safetensors"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(tmp_path, monkeypatch, capsys, arguments, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text(json.dumps(report({(0, "q"): 1})))
    (tmp_path / "c.safetensors").write_bytes(b"no")
    before = sorted(tmp_path.iterdir())
    assert main(["ranks", *arguments]) == 2
    assert named in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
