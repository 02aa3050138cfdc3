"""Training in a host that was started with an attention kernel made for inference."""

import contextlib
import itertools

import pytest
from host import checkpoints, graphs
from host.comfy_host import Graph, NodeFailed

_again = itertools.count()


def switch(host, kernel):
    graph = Graph()
    graph.node("InferenceAttention", kernel=kernel, again=next(_again))
    host.run(graph)


@contextlib.contextmanager
def started_with(host, kernel):
    """The host as if it had been started with it, within the block."""
    switch(host, kernel)
    try:
        yield
    finally:
        switch(host, "host")


def trained(host, text=False, **settings):
    settings = {
        "method": "lora",
        "preset": "custom",
        "r_init": 4,
        "r_max": 4,
        "steps": 4,
    } | settings
    graph, train = graphs.training(host, **settings)
    if text:
        data = next(n for n in graph.values() if n["class_type"] == "MakeTrainingDataset")
        words = graph.node("PrimitiveString", value="a photo of a sks dog")
        graph[train.id]["inputs"] |= {"clip": data["inputs"]["clip"], "captions": words[0]}
    saved = graphs.save(graph, train, "attention")
    # what is not an input of the node must not come from its cache
    graph[train.id]["inputs"]["run"] = f"attention{next(_again)}"
    return graphs.tensors(host, host.run(graph), saved)


def moved(state):
    ups = {key: up for key, up in state.items() if key.endswith("lora_up.weight")}
    return {key for key, up in ups.items() if up.any()}, set(ups)


def test_every_component_learns_whatever_the_host_was_started_with(host):
    with started_with(host, "cut"):
        cut = trained(host)
    learned, all_of_them = moved(cut)
    assert len(all_of_them) == 168 and learned == all_of_them
    assert graphs.same(cut, trained(host))


def test_the_stand_in_cuts_what_training_does_not_let_it_cut(host):
    graph = Graph()
    loaded = checkpoints.load(host, graph, "small_koala")
    data = graphs.dataset(host, graph, loaded.clip, loaded.vae)
    with started_with(host, "cut"):
        graph.node("AttentionGradient", model=loaded.model, latents=data[0], positive=data[1])
        told = next(iter(host.run(graph).outputs.values()))["text"]
    assert set(told) == {"theirs False", "ours True"}


def test_an_adapter_is_what_it_was_with_the_hosts_own_kernel(host):
    """What differs is the rounding of two kernels."""
    with started_with(host, "theirs"):
        theirs = trained(host)
    ours = trained(host)
    apart = [
        float((ours[key] - up).norm() / up.norm())
        for key, up in theirs.items()
        if key.endswith("lora_up.weight")
    ]
    print(f"apart: mean {sum(apart) / len(apart):.1e}, most {max(apart):.1e}")
    assert max(apart) < 1e-2


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_text_encoders_learn_too(host, dtype):
    with started_with(host, "cut"):
        state = trained(host, text=True, steps=2, training_dtype=dtype)
    learned, all_of_them = moved(state)
    still = all_of_them - learned
    # SDXL reads CLIP-L before its last layer
    assert {key.split("self_attn")[0] for key in still} <= {
        "lora_te1_text_model_encoder_layers_11_"
    }


def test_it_computes_what_the_hosts_kernels_compute(host):
    graph = Graph()
    node = graph.node("AttentionTwins", again=next(_again))
    told = host.run(graph).outputs[node.id]["text"]
    assert len(told) == 4 * 8
    for line in told:
        _, dtype, apart = line.split()
        assert float(apart) < (1e-5 if dtype == "torch.float32" else 2e-2), line


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        ("outside", ["126 of 168 adapted layers", "attn1.to_k", "--use-sage-attention"]),
        ("raising", ["step 1 has no gradient", "autograd", "--use-flash-attention"]),
    ],
)
def test_what_cannot_be_replaced_is_said(host, kernel, words):
    """A node that puts its own functions in the place of the host's is not asked by wrap_attn."""
    with started_with(host, kernel), pytest.raises(NodeFailed) as caught:
        trained(host, method="lora2", steps=8)
    message = caught.value.run.error["exception_message"]
    assert all(word in message for word in words), message
    assert "The run is kept" in message or kernel == "raising"
