"""The whole path in the real host: photographs, training, file, loader, latents."""

import json
import re

import numpy as np
import pytest
import torch
from host import checkpoints, graphs
from host.comfy_host import Graph
from safetensors import safe_open
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def trained(host):
    """A graph with training and everything that takes its outputs; and what it did."""
    graph, train = graphs.training(host)
    save = graphs.save(graph, train, "dogs/rex", trigger_words="sks dog, rex")
    shown = {
        "loss": graph.node("LossGraphNode", loss=train[1], filename_prefix="loss"),
        "ranks": graph.node("PreviewAny", source=train[2]),
        "steps": graph.node("PreviewAny", source=train[3]),
        "save": save,
        "host_save": graph.node("SaveLoRA", lora=train[0], prefix="loras/theirs", steps=train[3]),
    }
    before = graphs.sample(host)
    run = host.run(graph)
    return {
        "run": run,
        "train": train,
        "nodes": shown,
        "file": graphs.saved_file(host, run, save),
        "before": before,
    }


def name_of(host, trained):
    return trained["file"].relative_to(host.base / "models" / "loras").as_posix()


def test_progress_shows_step_loss_and_mean_rank(trained):
    run, train = trained["run"], trained["train"]
    assert (train.id, 12, 12) in run.progress
    assert re.search(r"LoRA² step 12/12 · loss \d\.\d{4} · mean rank \d+\.\d", run.log)


def test_every_output_is_taken_by_the_hosts_own_nodes(host, trained):
    outputs, nodes = trained["run"].outputs, trained["nodes"]
    assert outputs[nodes["steps"].id]["text"] == ["12"]
    assert np.asarray(host.image(outputs[nodes["loss"].id]["images"][0])).std() > 1
    report = json.loads(outputs[nodes["ranks"].id]["text"][0])
    assert report["totals"]["components"] == 168
    theirs = next((host.base / "output" / "loras").glob("theirs_12_steps_*.safetensors"))
    mine = load_file(trained["file"])
    for key, tensor in load_file(theirs).items():
        assert torch.equal(tensor, mine[key])


def test_ranks_differ_between_components_and_the_file_says_so(trained):
    with safe_open(trained["file"], "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    note = json.loads(metadata["lora2"])["components"]
    ending = ".lora_down.weight"
    ranks = {k.removesuffix(ending): t.shape[0] for k, t in tensors.items() if k.endswith(ending)}
    assert len(ranks) == 168
    assert len(set(ranks.values())) >= 5
    for name, rank in ranks.items():
        assert tensors[f"{name}.lora_up.weight"].shape[1] == rank
        assert f"{name}.alpha" in tensors
        assert note[name][1] == rank
    assert metadata["modelspec.trigger_phrase"] == "sks dog, rex"
    assert metadata["ss_steps"] == "12"


def test_ours_and_the_hosts_loader_give_the_same_latents(host, trained):
    name = name_of(host, trained)
    ours = graphs.sample(host, graphs.with_ours(name))
    theirs = graphs.sample(host, graphs.with_theirs(name))
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, trained["before"])


def test_the_wire_and_the_file_give_the_same_latents(host, trained):
    from_file = graphs.sample(host, graphs.with_ours(name_of(host, trained)))

    def adapt(graph, loaded):
        data = graphs.dataset(host, graph, loaded.clip, loaded.vae)
        train = graph.node(
            "LoRA2Train",
            model=loaded.model,
            latents=data[0],
            positive=data[1],
            **graphs.SETTINGS,
        )
        node = graph.node(
            "LoraModelLoader", model=loaded.model, lora=train[0], strength_model=1.0, bypass=False
        )
        return node[0], loaded.clip

    from_wire = graphs.sample(host, adapt)
    assert torch.equal(from_wire, from_file)


def test_the_model_is_as_it_was(host, trained):
    assert torch.equal(graphs.sample(host), trained["before"])


def test_the_loader_says_how_much_matched(host, trained):
    graph = Graph()
    loaded = checkpoints.load(host, graph, "small_koala")
    node = graph.node(
        "LoRA2Load", model=loaded.model, lora_name=name_of(host, trained), strength_model=0.5
    )
    report = graph.node("PreviewAny", source=node[2])
    run = host.run(graph)
    assert run.outputs[node.id]["text"] == ["matched 168 of 168 components"]
    ranks = [c["rank"] for c in json.loads(run.outputs[report.id]["text"][0])["components"]]
    assert len(ranks) == 168


def test_the_same_seed_gives_the_same_adapter(host, trained):
    graph, train = graphs.training(host, run="again")  # a name of its own, or the host knows it
    save = graphs.save(graph, train, "again")
    run = host.run(graph)
    assert train.id in run.executed
    again = load_file(graphs.saved_file(host, run, save))
    first = load_file(trained["file"])
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_an_existing_file_is_not_replaced(host, trained):
    graph, train = graphs.training(host, steps=1)
    first, second = graphs.save(graph, train, "same"), graphs.save(graph, train, "same", "fp16")
    run = host.run(graph)
    names = [graphs.saved_file(host, run, node).name for node in (first, second)]
    assert sorted(names) == ["same_00001.safetensors", "same_00002.safetensors"]
