"""Memory that runs out in a real server, and memory that stays level."""

import resource
from pathlib import Path

import pytest
import torch
from host import checkpoints, graphs
from host.comfy_host import Graph, NodeFailed

ROUNDS, WARM = 6, 3  # of train, cancel and sample; the first ones fill the caches
LEVEL = 60e6  # bytes that the later rounds may add together; one step of a leak is more


def status(host, name):
    """A line of the server's /proc/…/status, in bytes."""
    lines = Path(f"/proc/{host.pid}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def large(host, **settings):
    """A training on two latents of 2048 px, which no VAE has to make."""
    graph = Graph()
    loaded = checkpoints.load(host, graph, "small_koala")
    latent = graph.node("EmptyLatentImage", width=2048, height=2048, batch_size=2)
    words = graph.node("CLIPTextEncode", clip=loaded.clip, text="a photo of a sks dog")
    train = graph.node(
        "LoRA2Train",
        model=loaded.model,
        latents=latent[0],
        positive=words[0],
        **(graphs.SETTINGS | settings),
    )
    graphs.save(graph, train, "large")
    return graph


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_what_does_not_fit_says_what_would_help_and_leaves_the_host_well(host):
    before = graphs.sample(host)
    try:
        # it takes some fifty, of which the memory that other tests have left may hold a few
        limit = status(host, "VmSize") + 2_000_000_000
        resource.prlimit(host.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        with pytest.raises(NodeFailed) as caught:
            host.run(large(host, gradient_checkpointing=False, batch_size=2, steps=2))
    finally:
        unlimited = resource.RLIM_INFINITY
        resource.prlimit(host.pid, resource.RLIMIT_AS, (unlimited, unlimited))
    text = str(caught.value)
    assert "out of memory at step 1 of 2. Nothing was trained before that" in text
    assert "gradient_checkpointing would save about" in text
    assert "batch_size 1 would save about" in text
    assert torch.equal(graphs.sample(host), before)
    graph, train = graphs.training(host, steps=2, seed=77)
    graphs.save(graph, train, "after")
    assert host.run(graph).ok


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_train_cancel_and_sample_again_and_again_do_not_grow(host):
    before = graphs.sample(host)
    held = []
    for number in range(ROUNDS):
        graph, train = graphs.training(host, steps=4, seed=100 + number, run="again")
        graphs.save(graph, train, "again")

        def cancel(kind, data, train=train):
            if kind == "progress" and data["node"] == train.id and data["value"] == 2:
                host.interrupt()

        assert host.run(graph, on_event=cancel if number % 2 else None).interrupted == number % 2
        assert torch.equal(graphs.sample(host), before)
        held.append(status(host, "VmRSS"))
    assert max(held[WARM:]) - held[WARM - 1] < LEVEL, held
