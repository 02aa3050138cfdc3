"""LoRA² Rank Heatmap in the real host, and what its page asks the server."""

import json
import urllib.parse

import numpy as np
import pytest
import torch
from host import checkpoints, graphs
from host.comfy_host import Graph, HostError, NodeFailed
from made_effects import with_effects
from safetensors.torch import save_file

from lora2_core.files.adapter_file import LoraState, components, read
from lora2_core.files.header import read_header
from lora2_core.files.writing import write
from lora2_core.rank_tools import Cut, compress, open_adapter
from lora2_core.ranks import rank_picture, rank_report


def shown(host, lora_name="(connected lora)", build=None):
    """The node's run: views for the page, pictures, reports."""
    graph = Graph()
    links = list(build(graph)) if build else []
    sockets = {"lora": links[0]} if links else {}
    sockets |= {f"more.more_{i}": link for i, link in enumerate(links[1:])}
    node = graph.node("LoRA2RankHeatmap", lora_name=lora_name, **sockets)
    image = graph.node("SaveImage", images=node[0], filename_prefix="heat")
    text = graph.node("PreviewAny", source=node[1])
    run = host.run(graph)
    pictures = [host.image(entry) for entry in run.outputs[image.id]["images"]]
    reports = [json.loads(report) for report in run.outputs[text.id]["text"]]
    return run.outputs[node.id]["lora2_ranks"], pictures, reports


def asked(host, route, **parameters):
    return host.get(f"{route}?{urllib.parse.urlencode(parameters)}")


def path_of(host, name):
    return host.base / "models" / "loras" / name


@pytest.fixture
def content(host):
    return graphs.random_lora(host, "heat_content", 1, (1, 4, 9))


def test_a_file_is_shown_as_it_is(host, content):
    (view,), (picture,), (report,) = shown(host, content)
    expected = rank_report.report_from_header(read_header(path_of(host, content)))
    assert view["report"] == report == expected
    assert view["title"] == content
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(rank_picture.draw(expected)))
    assert asked(host, "/lora2/ranks", lora_name=content)["report"] == expected


def test_spectra_are_those_of_the_dense_update(host, content):
    token = asked(host, "/lora2/ranks", lora_name=content)["token"]
    summary = asked(host, "/lora2/spectra", token=token)
    factors = list(components(read(path_of(host, content))).values())
    assert {len(values) for values in summary.values()} == {168}
    for index in (0, 1, 2, 100):
        found = asked(host, "/lora2/spectra", token=token, component=index)
        sigma = torch.linalg.svdvals(factors[index].delta())
        torch.testing.assert_close(
            torch.tensor(found["sigma"]), sigma[: len(found["sigma"])], rtol=1e-4, atol=1e-5
        )
        for key in ("size", "rank90", "rank99"):
            assert summary[key][index] == found[key]


def test_a_component_of_rank_0_has_no_spectrum_and_shifts_none(host, content):
    adapter = open_adapter(path_of(host, content))
    outcome = compress(with_effects(adapter), Cut(effect=0.999))
    path = path_of(host, "heat_effect.safetensors")
    write(outcome.state, path, precision="fp32", overwrite=True)
    (view,), _, _ = shown(host, path.name)
    parts, there = view["report"]["components"], components(read(path))
    assert len(there) < len(parts) == 168
    summary = asked(host, "/lora2/spectra", token=view["token"])
    assert {len(values) for values in summary.values()} == {168}
    for part, size in zip(parts, summary["size"], strict=True):
        if part["rank"]:
            assert size == pytest.approx(float(there[part["name"]].delta().norm()), rel=1e-4)
        else:
            assert size is None
    gone = next(i for i, part in enumerate(parts) if part["rank"] == 0)
    with pytest.raises(HostError):
        asked(host, "/lora2/spectra", token=view["token"], component=gone)


def test_files_wires_and_reports_side_by_side_on_one_scale(host, content):
    style = graphs.random_lora(host, "heat_style", 2, (32,))

    def build(graph):
        pick = graph.node("LoRA2Pick", lora_name=style, weight=0.5)
        small = graph.node(
            "LoRA2Compress", lora_name=content, keep="rank", rank=2, energy=0.9, megabytes=5.0
        )
        return pick[0], small[0], small[1]

    views, pictures, reports = shown(host, content, build)
    titles = [view["title"] for view in views]
    assert titles == [content, style, "connected lora 2", "connected lora 3"]
    assert [r["totals"]["max_rank"] for r in reports] == [9, 32, 2, 2]
    # the report of a cut tells what is gone; a report alone has no weights to ask for
    assert {row["before"] for row in reports[3]["components"]} == {1, 4, 9}
    assert 0 < reports[3]["totals"]["retained"] < 1
    assert views[3]["token"] is None and views[2]["token"]
    found = asked(host, "/lora2/spectra", token=views[2]["token"], component=2)
    assert len(found["sigma"]) == 2
    highest = [rank_picture.colour(r["totals"]["max_rank"], 32) for r in reports]
    for picture, colour in zip(pictures, highest, strict=True):
        assert (np.asarray(picture) == colour).all(-1).any()


@pytest.mark.parametrize("count", [1, 5000])
def test_one_component_and_five_thousand(host, count):
    state = LoraState()
    for index in range(count):
        state[f"block_{index}_x.lora_down.weight"] = torch.ones(2, 4)
        state[f"block_{index}_x.lora_up.weight"] = torch.ones(4, 2)
    write(state, path_of(host, f"count{count}.safetensors"), precision="fp16")
    (view,), (picture,), _ = shown(host, f"count{count}.safetensors")
    assert view["report"]["totals"]["components"] == count
    assert picture.height < 12_000
    token = asked(host, "/lora2/ranks", lora_name=f"count{count}.safetensors")["token"]
    assert asked(host, "/lora2/spectra", token=token)["rank90"] == [1] * count


def test_two_thousand_files_are_listed(host, content):
    many = path_of(host, "many")
    many.mkdir(exist_ok=True)
    data = path_of(host, content).read_bytes()
    (many / "0000.safetensors").write_bytes(data)
    for index in range(1, 2000):
        (many / f"{index:04}.safetensors").touch()
    try:
        options = json.dumps(host.object_info("LoRA2RankHeatmap"))
        assert options.count("many/") == 2000
        assert asked(host, "/lora2/ranks", lora_name="many/0000.safetensors")["report"]
        with pytest.raises(HostError, match=r"422.*0007"):
            asked(host, "/lora2/ranks", lora_name="many/0007.safetensors")
    finally:
        for file in many.iterdir():
            file.unlink()
        many.rmdir()


def bad_files(host):
    checkpoint = checkpoints.place(host, "small_koala")
    path_of(host, "whole.safetensors").unlink(missing_ok=True)
    path_of(host, "whole.safetensors").symlink_to(host.base / "models" / "checkpoints" / checkpoint)
    zero = {"x.lora_down.weight": torch.ones(0, 4), "x.lora_up.weight": torch.ones(4, 0)}
    save_file(zero, path_of(host, "zero.safetensors"))
    path_of(host, "text.safetensors").write_text("not a model at all")
    return {
        "whole.safetensors": "not part of a LoRA",
        "zero.safetensors": "rank 1 and more",
        "text.safetensors": "text.safetensors",
        "gone.safetensors": "not in the loras folder",
        "../../etc/passwd": "not in the loras folder",
        "": "not in the loras folder",
    }


def test_what_is_no_lora_says_what_it_is(host):
    for name, words in bad_files(host).items():
        with pytest.raises(HostError, match=f"422(?s:.)*{words}"):
            asked(host, "/lora2/ranks", lora_name=name)
    with pytest.raises(NodeFailed, match="not part of a LoRA"):
        shown(host, "whole.safetensors")


def test_a_file_that_goes_away_after_it_was_opened(host, content):
    copy = path_of(host, "brief.safetensors")
    copy.write_bytes(path_of(host, content).read_bytes())
    token = asked(host, "/lora2/ranks", lora_name=copy.name)["token"]
    copy.unlink()
    with pytest.raises(HostError, match=r"422.*brief\.safetensors cannot be read"):
        asked(host, "/lora2/spectra", token=token, component=0)
    with pytest.raises(HostError, match=r"422.*brief\.safetensors cannot be read"):
        asked(host, "/lora2/spectra", token=token)


@pytest.mark.parametrize("question", [{}, {"token": "x"}, {"token": "x", "component": "-1"}])
def test_a_question_about_nothing(host, question):
    with pytest.raises(HostError, match=r"404.*run the node again"):
        asked(host, "/lora2/spectra", **question)


def test_a_component_that_is_not_there(host, content):
    token = asked(host, "/lora2/ranks", lora_name=content)["token"]
    for component in ("168", "-1", "1e3", "９９９", "9" * 5000):
        with pytest.raises(HostError, match="404"):
            asked(host, "/lora2/spectra", token=token, component=component)


def test_nothing_connected(host):
    with pytest.raises(NodeFailed, match="choose a file, or connect a LoRA"):
        shown(host)
