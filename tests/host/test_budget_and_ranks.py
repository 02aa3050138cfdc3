"""A budget in megabytes, and ranks handed from one run to another, in the real host."""

import json

from host import graphs
from host.comfy_host import Graph

from lora2_core.ranks import rank_map


def trained(host, name, precision="fp16", wire=None, **settings):
    """(bytes of the file, component → rank) of a run of the small KOALA."""
    graph, train = graphs.training(host, **settings)
    if wire is not None:
        graph[train.id]["inputs"]["ranks"] = wire(graph)
    save = graphs.save(graph, train, name, precision=precision)
    report = graph.node("PreviewAny", source=train[2])
    run = host.run(graph)
    ranks = rank_map.of_report(json.loads(run.outputs[report.id]["text"][0]))
    return graphs.saved_file(host, run, save).stat().st_size, ranks


def test_the_file_keeps_to_the_budget_and_the_ranks_part(host):
    size, ranks = trained(host, "budget", budget_mb=0.6, steps=30, seed=41)
    assert 0.9 * 0.6e6 <= size <= 0.6e6
    assert len(set(ranks.values())) > 2
    other, _ = trained(host, "budget", precision="bf16", budget_mb=1.5, steps=6, seed=41)
    assert 0.9 * 1.5e6 <= other <= 1.5e6


def test_a_budget_below_one_row_is_refused_with_the_least(host):
    graph, train = graphs.training(host, budget_mb=0.01, steps=2)
    graphs.save(graph, train, "never")
    error = host.run(graph, check=False).error
    assert error["node_id"] == train.id
    assert "budget_mb is 0.01, but a file with a single row takes" in error["exception_message"]


def test_a_run_starts_from_the_average_of_others_and_keeps_to_it(host):
    names = [graphs.random_lora(host, f"map{i}", i, ranks) for i, ranks in ((1, (1, 6)), (2, (4,)))]
    maps = []

    def average(graph: Graph):
        other = graph.node("LoRA2Pick", lora_name=names[1], weight=1.0)
        node = graph.node("LoRA2RankMap", lora_name=names[0], **{"more.more_0": other[0]})
        maps.append(graph.node("PreviewAny", source=node[1]))
        return node[0]

    _, ranks = trained(host, "mapped", wire=average, fix_ranks=True, steps=2)
    assert set(ranks.values()) == {3, 5}  # of 1 and 4, halves up, and of 6 and 4

    text = json.dumps(
        {"components": [{"name": name, "rank": 2 + i % 3} for i, name in enumerate(ranks)]}
    )
    graph, train = graphs.training(host, steps=2)
    graph[train.id]["inputs"]["ranks"] = graph.node(
        "LoRA2RankMap", lora_name="(connected lora)", text=text
    )[0]
    graphs.save(graph, train, "never")
    error = host.run(graph, check=False).error
    assert "says too little" in error["exception_message"]


def test_the_rank_report_of_one_training_starts_another(host):
    graph, first = graphs.training(host, steps=8, seed=51)
    second = graph.node(
        "LoRA2Train",
        **(graph[first.id]["inputs"] | {"ranks": first[2], "fix_ranks": True, "seed": 52}),
    )
    reports = [graph.node("PreviewAny", source=node[2]) for node in (first, second)]
    run = host.run(graph)
    one, other = (
        rank_map.of_report(json.loads(run.outputs[node.id]["text"][0])) for node in reports
    )
    assert one == other and len(set(one.values())) > 1
