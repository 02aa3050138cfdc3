"""A training run as a page follows it, over the real websocket."""

import base64
import struct
import time

import pytest
from host import graphs

from lora2_core.files.adapter_file import read
from lora2_core.files.metadata import read_rank_note
from lora2_core.ranks import rank_report

STEPS = 32  # long enough for its effects to be known


def followed(host, graph, client, workflow):
    """Messages of a run, in order."""
    messages = []

    def note(kind, data):
        if kind == "lora2.live":
            messages.append(data)

    return host.run(graph, on_event=note, client=client, workflow=workflow), messages


@pytest.fixture(scope="module")
def run(host):
    graph, train = graphs.training(host, steps=STEPS, seed=77)
    save = graphs.save(graph, train, "live", precision="fp16")
    run, messages = followed(host, graph, "page-1", "graph-1")
    return {"run": run, "messages": messages, "train": train, "save": save}


def state(host, client, workflow):
    return host.get(f"/lora2/live?client={client}&workflow={workflow}")


def ranks_of(frame):
    data = base64.b64decode(frame["ranks"])
    return struct.unpack(f"<{len(data) // 2}H", data)


def test_the_page_is_told_where_and_how_far(run):
    messages = run["messages"]
    assert {(m["node"], m["workflow"]) for m in messages} == {(run["train"].id, "graph-1")}
    kinds = [m["kind"] for m in messages]
    assert kinds[0] == "begin" and kinds[-1] == "end" and set(kinds[1:-1]) == {"frame"}
    assert messages[-2]["step"] == STEPS
    # four a second, the first, the last, and the file
    assert len(kinds) - 5 <= 4 * run["run"].seconds


def test_the_last_frame_is_the_file(host, run):
    path = graphs.saved_file(host, run["run"], run["save"])
    report = rank_report.report(read(path))
    ranks = {part["name"]: part["rank"] for part in report["components"]}
    begin, last = run["messages"][0], run["messages"][-2]
    assert dict(zip((p["name"] for p in begin["components"]), ranks_of(last), strict=True)) == ranks
    assert last["mean_rank"] == pytest.approx(report["totals"]["mean_rank"])
    spare = 1e6 * last["megabytes"] - path.stat().st_size  # for words that a file may carry
    assert 0 <= spare <= 2000 + 40 * len(ranks)
    assert begin["rows"] == report["rows"] and begin["columns"] == report["columns"]
    effects = [part["effect"] for part in report["components"]]
    by_name = dict(zip((part["name"] for part in report["components"]), effects, strict=True))
    codes = base64.b64decode(last["effects"])
    for part, code in zip(begin["components"], codes, strict=True):
        share = 2 ** (-code / 8) if code < 255 else 0.0
        assert share == pytest.approx(by_name[part["name"]], rel=0.05, abs=1e-9)
    assert read_rank_note(read(path).metadata)[1].keys() == ranks.keys()


def test_a_page_that_comes_late_gets_all_of_it(host, run):
    found = state(host, "page-1", "graph-1")[run["train"].id]
    assert found["ended"] is True
    assert [frame["step"] for frame in found["frames"]] == list(range(1, STEPS + 1))
    assert found["begin"]["components"] == run["messages"][0]["components"]
    assert ranks_of(found["frames"][-1]) == ranks_of(run["messages"][-2])
    assert state(host, "page-1", "graph-2") == state(host, "page-2", "graph-1") == {}


def test_two_trainings_in_one_graph_and_one_that_is_cancelled(host):
    graph, first = graphs.training(host, steps=3, seed=78)
    inputs = graph[first.id]["inputs"]
    second = graph.node("LoRA2Train", **(inputs | {"seed": 79, "steps": 500}))
    graphs.save(graph, first, "first")
    graphs.save(graph, second, "second")
    seen = {}

    def cancel(kind, data):
        if kind != "lora2.live" or data["kind"] != "frame":
            return
        seen[data["node"]] = data["step"]
        if data["node"] == second.id and data["step"] >= 2:
            host.interrupt()

    run = host.run(graph, on_event=cancel, client="page-3", workflow="graph-3")
    found = state(host, "page-3", "graph-3")
    assert run.interrupted
    assert seen.keys() <= found.keys() and second.id in found
    stopped = found[second.id]
    assert stopped["ended"] and 2 <= stopped["frames"][-1]["step"] < 500
    if first.id in found:  # the host may run them in either order
        assert found[first.id]["frames"][-1]["step"] == 3


def test_a_client_without_a_page_is_told_nothing(host):
    graph, train = graphs.training(host, steps=2, seed=80)
    graphs.save(graph, train, "silent")
    prompt = host.post("/prompt", {"prompt": graph})["prompt_id"]
    deadline = time.monotonic() + 120
    while not (history := host.get(f"/history/{prompt}")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert history[prompt]["status"]["status_str"] == "success"
