"""Cancel, mixed sizes, prior preservation, the other method, targets and precisions."""

import json
import time

import pytest
import torch
from host import checkpoints, graphs
from host.comfy_host import Graph
from safetensors.torch import load_file
from unet_shapes import KOALA_SMALL, unet_shapes


def ranks_of(host, run, node) -> list[int]:
    report = json.loads(run.outputs[node.id]["text"][0])
    return [component["rank"] for component in report["components"]]


def report(graph, train):
    return graph.node("PreviewAny", source=train[2])


def test_cancel_stops_within_a_step_and_leaves_nothing(host):
    before = graphs.sample(host)
    graph, train = graphs.training(host, steps=500)
    graphs.save(graph, train, "cancelled")
    asked = []

    def cancel(kind, data):
        if kind == "progress" and data["node"] == train.id and data["value"] >= 3 and not asked:
            asked.append(data["value"])
            host.interrupt()
            asked.append(time.monotonic())

    run = host.run(graph, on_event=cancel)
    assert run.interrupted and run.error is None
    # 500 steps would last minutes; what was under way when cancel arrived may still be reported
    assert max(value for node, value, _ in run.progress if node == train.id) <= asked[0] + 3
    assert not list((host.base / "models" / "loras").glob("cancelled*"))
    assert torch.equal(graphs.sample(host), before)


def test_images_of_several_sizes_share_a_run(host):
    folder = host.add_images(graphs.PHOTOGRAPHS, "mixed", size=128)
    host.add_images(graphs.PHOTOGRAPHS, folder, size=192, count=2)  # replaces the first two
    graph, train = graphs.training(host, steps=3, batch_size=2)
    loader = next(n for n in graph.values() if n["class_type"] == "LoadImageDataSetFromFolder")
    loader["inputs"]["folder"] = folder
    ranks = report(graph, train)
    assert len(ranks_of(host, host.run(graph), ranks)) == 168


def test_prior_preservation_changes_the_result(host):
    def trained(**prior):
        graph, train = graphs.training(host, steps=3)
        inputs = graph[train.id]["inputs"]
        if prior:
            inputs |= {"reg_latents": inputs["latents"], "reg_positive": inputs["positive"]}
            inputs |= prior
        node = graphs.save(graph, train, "prior")
        return load_file(graphs.saved_file(host, host.run(graph), node))

    without, ignored, counted = trained(), trained(prior_weight=0.0), trained(prior_weight=1.0)
    key = next(key for key in without if key.endswith("lora_up.weight"))
    assert without[key].abs().max() > 0
    assert not torch.equal(ignored[key][:, :1], counted[key][:, :1])


def test_plain_lora_keeps_its_rank(host):
    graph, train = graphs.training(host, method="lora", preset="custom", r_init=5, r_max=8, steps=2)
    ranks = report(graph, train)
    assert set(ranks_of(host, host.run(graph), ranks)) == {5}


@pytest.mark.parametrize("targets", ["attention+feed_forward", "all_linear", "all_linear+conv"])
def test_targets_are_taken_by_the_hosts_loader(host, targets):
    weights = [shape for key, shape in unet_shapes(KOALA_SMALL).items() if key.endswith("weight")]
    linear = sum(len(shape) == 2 for shape in weights)
    components = {
        "attention+feed_forward": 168 + 2 * 21,  # 21 transformer blocks
        "all_linear": linear,
        "all_linear+conv": linear + sum(len(shape) == 4 for shape in weights),
    }[targets]
    graph, train = graphs.training(host, targets=targets, steps=1)
    ranks = report(graph, train)
    save = graphs.save(graph, train, f"targets_{components}")
    run = host.run(graph)
    assert len(ranks_of(host, run, ranks)) == components
    name = graphs.saved_file(host, run, save).name
    graphs.sample(host, graphs.with_theirs(name))
    graph = Graph()
    loaded = checkpoints.load(host, graph, "small_koala")
    node = graph.node("LoRA2Load", model=loaded.model, lora_name=name, strength_model=1.0)
    graph.node("PreviewAny", source=node[2])
    said = host.run(graph).outputs[node.id]["text"]
    assert said == [f"matched {components} of {components} components"]


def test_bf16_without_checkpointing_and_with_accumulation(host):
    graph, train = graphs.training(
        host,
        training_dtype="bf16",
        gradient_checkpointing=False,
        gradient_accumulation=2,
        steps=2,
    )
    ranks = report(graph, train)
    assert len(ranks_of(host, host.run(graph), ranks)) == 168


@pytest.mark.slow
def test_a_whole_koala_700m(host):
    graph, train = graphs.training(host, "koala_700m", steps=3)
    ranks = report(graph, train)
    save = graphs.save(graph, train, "whole_koala", "fp16")
    run = host.run(graph, timeout=1500)
    found = ranks_of(host, run, ranks)
    assert len(found) == 168
    tensors = load_file(graphs.saved_file(host, run, save))
    ups = [t for key, t in tensors.items() if key.endswith("lora_up.weight")]
    downs = [t for key, t in tensors.items() if key.endswith("lora_down.weight")]
    per_rank = sum(t.shape[0] for t in ups) + sum(t.shape[1] for t in downs)
    assert per_rank == 408_576
