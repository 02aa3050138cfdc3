"""Weights that wait in main memory: the host's model is trained alike, and is whole afterwards.

On a CPU nothing travels, but as on a GPU the host's weights are replaced by copies, and it finds
the model unloaded.
"""

import json
import time

import pytest
import torch
from host import graphs
from host.comfy_host import Graph, NodeFailed
from safetensors.torch import load_file

STEPS = 4


def begun(host, offload, **settings):
    graph, train = graphs.training(host, **({"steps": STEPS, "seed": 61} | settings))
    options = graph.node("LoRA2Options", **(graphs.OPTIONS | {"offload": offload}))
    graph[train.id]["inputs"]["options"] = options[0]
    return graph, train


def with_lora(host, graph, train):
    """Trains on a model that has a LoRA already, which the host adds to the weights it loads."""
    inputs = graph[train.id]["inputs"]
    name = graphs.random_lora(host, "before", seed=4, ranks=(4, 2), size=0.05)
    loader = graph.node(
        "LoraLoaderModelOnly", model=inputs["model"], lora_name=name, strength_model=1.0
    )
    inputs["model"] = loader[0]


def with_text(host, graph, train):
    """Text encoders are trained, too."""
    inputs = graph[train.id]["inputs"]
    inputs |= {"clip": [inputs["model"][0], 1], "captions": "a photo of a sks dog"}


def with_preview(host, graph, train):
    inputs = graph[train.id]["inputs"]
    clip, vae = [inputs["model"][0], 1], [inputs["model"][0], 2]
    words = graph.node("CLIPTextEncode", clip=clip, text="a sks dog")
    preview = graph.node(
        "LoRA2Preview", vae=vae, positive=words[0], every=2, width=128, height=96, **graphs.PREVIEW
    )
    inputs["preview"] = preview[0]


def plain(host, graph, train):
    pass


def trained(host, offload, change):
    """The losses, the adapter and what the host printed."""
    steps = 2 if change is with_text else STEPS  # CLIP-G in full size is by far the slowest
    graph, train = begun(host, offload, run=f"offload_{offload}_{change.__name__}", steps=steps)
    change(host, graph, train)
    node = graphs.save(graph, train, f"offload_{offload}")
    told = graph.node("PreviewAny", source=train[1])
    run = host.run(graph)
    losses = torch.tensor(json.loads(run.outputs[told.id]["text"][0])["loss"])
    return losses, load_file(graphs.saved_file(host, run, node)), run.log


@pytest.fixture(scope="module", params=[plain, with_lora, with_text, with_preview])
def change(request):
    return request.param


@pytest.fixture(scope="module")
def stays(host, change):
    """What a run gives whose weights all stay, and what the host draws before it."""
    before = graphs.sample(host)
    return *trained(host, "none", change), before


def test_the_adapter_is_the_same_bit_for_bit_and_the_host_draws_as_before(host, change, stays):
    _, adapter, log, before = stays
    assert "wait in main memory" not in log
    _, again, log = trained(host, "all", change)
    assert "of it wait in main memory" in log
    assert graphs.same(again, adapter)
    assert torch.equal(graphs.sample(host), before)


def switched(host, small):
    graph = Graph()
    graph.node("SmallDevice", small=small, again=time.time_ns() % 1_000_000)
    host.run(graph)


def test_a_model_that_the_host_loads_in_part_is_trained_alike(host, change, stays):
    losses, adapter, _, before = stays
    switched(host, True)
    try:
        part, again, _ = trained(host, "auto", change)
        graph = Graph()
        node = graph.node("Kept", again=time.time_ns() % 1_000_000)
        assert int(host.run(graph).outputs[node.id]["text"][-1]) > 100
    finally:
        switched(host, False)
    # a LoRA is added to weights in fp16 by a host that loads them, in fp32 by one that casts them
    torch.testing.assert_close(part, losses, rtol=0 if change is plain else 1e-3, atol=0)
    if change is plain:
        assert graphs.same(again, adapter)
    assert torch.equal(graphs.sample(host), before)


def test_a_run_that_is_cancelled_leaves_the_model_whole_and_goes_on(host):
    before = graphs.sample(host)
    graph, train = begun(host, "all", run="offload_cut")
    graphs.save(graph, train, "offload_cut")

    def cancel(kind, data):
        if kind == "progress" and data["node"] == train.id and data["value"] == 2:
            host.interrupt()

    assert host.run(graph, on_event=cancel).interrupted
    assert torch.equal(graphs.sample(host), before)
    # on with all weights in their place
    graph, train = begun(host, "none", run="offload_cut", resume="offload_cut_00001")
    steps = graph.node("PreviewAny", source=train[3])
    assert host.run(graph).outputs[steps.id]["text"] == [str(STEPS)]


def test_what_cannot_save_memory_is_refused(host):
    graph, train = begun(host, "all", gradient_checkpointing=False)
    graphs.save(graph, train, "refused")
    with pytest.raises(NodeFailed, match="gradient_checkpointing is off"):
        host.run(graph)
