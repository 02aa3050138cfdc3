"""The bundled model in the host, and the same file read without it; the graph that shows it."""

import re

import numpy as np
import pytest
import torch
from host import graphs
from host.comfy_host import Graph, Node
from safetensors.torch import load_file

from lora2_core.backbones.diffusers_unet import DiffusersUNet
from lora2_core.demo_model import bundled, checkpoint, sampling, studio
from lora2_core.demo_model.state import SDXL_SCALE
from lora2_core.drawn_world import load_subjects, photograph

PROMPT = "a red boot on the beach"
SUBJECT = "tiger clock"


@pytest.fixture(scope="module")
def headless():
    return checkpoint.load(bundled.weights())


def conditioning(graph: Graph, loaded: Node, prompt: str) -> list:
    return graph.node("CLIPTextEncode", clip=loaded[1], text=prompt)[0]


def sampled(graph: Graph, loaded: Node, positive: list, steps: int = 25) -> Node:
    """A KSampler with what the help page recommends."""
    empty = graph.node("EmptyLatentImage", width=128, height=128, batch_size=1)
    return graph.node(
        "KSampler", model=loaded[0], positive=positive, negative=conditioning(graph, loaded, ""),
        latent_image=empty[0], seed=3, steps=steps, cfg=4.0, sampler_name="euler",
        scheduler="normal", denoise=1.0,
    )  # fmt: skip


def store(graph: Graph, samples: list) -> Node:
    return graph.node("SaveLatent", samples=samples, filename_prefix="demo")


def stored(host, run, node: Node) -> torch.Tensor:
    return load_file(host.file(run.outputs[node.id]["latents"][0]))["latent_tensor"]


def test_equal_noise_gives_the_latents_and_pictures_of_headless_use(host, headless):
    graph = Graph()
    loaded = graph.node("LoRA2DemoModel")
    sampler = sampled(graph, loaded, conditioning(graph, loaded, PROMPT))
    saved = store(graph, sampler[0])
    decoded = graph.node("VAEDecode", samples=sampler[0], vae=loaded[2])
    shown = graph.node("PreviewImage", images=decoded[0])
    run = host.run(graph)

    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    ours = sampling.sample(
        DiffusersUNet(headless.unet),
        noise,
        studio.conditioning(headless, PROMPT),
        studio.conditioning(headless, ""),
    )
    assert ours.std() > 0.1
    assert (ours - SDXL_SCALE * stored(host, run, saved)).abs().max() < 1e-3
    [picture] = studio.draw(headless, [PROMPT], seed=3)
    other = host.image(run.outputs[shown.id]["images"][0])
    assert np.abs(np.asarray(picture, int) - np.asarray(other, int)).max() <= 1
    assert not re.search("missing|unexpected", run.log, re.IGNORECASE)  # of weights


def test_drawn_pictures_are_encoded_as_headless_training_encodes_them(host, headless):
    graph = Graph()
    loaded = graph.node("LoRA2DemoModel")
    drawn = graph.node("LoRA2DemoPictures", subject=SUBJECT, count=5, seed=2)
    data = graph.node(
        "MakeTrainingDataset", images=drawn[0], texts=drawn[1], vae=loaded[2], clip=loaded[1]
    )
    graph.node(
        "SaveTrainingDataset", latents=data[0], conditioning=data[1],
        folder_name="drawn", shard_size=1000,
    )  # fmt: skip
    host.run(graph)
    # the host's own format is a pickle; this one was written by the host that this test started
    theirs = torch.load(host.dataset("drawn") / "shard_0000.pkl", weights_only=False)
    ours = studio.examples(headless, photograph(load_subjects()[SUBJECT], 5, 2))
    assert len(ours) == len(theirs["latents"]) == len(theirs["conditioning"]) == 5
    pairs = zip(ours, theirs["latents"], theirs["conditioning"], strict=True)
    for example, latent, [(context, more)] in pairs:
        assert torch.allclose(example.latent, SDXL_SCALE * latent["samples"], atol=1e-4)
        assert torch.allclose(example.conditioning["context"], context, atol=1e-5)
        assert torch.allclose(example.conditioning["pooled"], more["pooled_output"], atol=1e-5)


def test_prompts_may_hold_weights_and_unknown_words(host):
    graph = Graph()
    loaded = graph.node("LoRA2DemoModel")
    sizes = dict.fromkeys(("width", "height", "target_width", "target_height"), 128)
    positives = {
        "plain": conditioning(graph, loaded, PROMPT),
        "weight 1": conditioning(graph, loaded, "a (red:1.0) boot on the beach"),
        "heavier": conditioning(graph, loaded, "a (red:1.5) boot on the beach"),
        "unknown": conditioning(graph, loaded, "a ((zebra) \\(boot: " + "red " * 40),
        "sdxl": graph.node(
            "CLIPTextEncodeSDXL", clip=loaded[1], text_g=PROMPT, text_l=PROMPT,
            crop_w=0, crop_h=0, **sizes,
        )[0],
    }  # fmt: skip
    saved = {
        name: store(graph, sampled(graph, loaded, positive, steps=1)[0])
        for name, positive in positives.items()
    }
    run = host.run(graph)
    found = {name: stored(host, run, node) for name, node in saved.items()}
    assert all(torch.isfinite(latent).all() for latent in found.values())
    assert torch.equal(found["weight 1"], found["plain"])
    assert torch.equal(found["sdxl"], found["plain"])
    assert not torch.allclose(found["heavier"], found["plain"], atol=1e-4)
    assert not torch.allclose(found["unknown"], found["plain"], atol=1e-4)


def test_the_shipped_graph_trains_and_draws_with_and_without_the_adapter(host):
    graph, ids = graphs.template(host, "lora2_demo", LoRA2Train={"steps": 6}, KSampler={"steps": 3})
    train = Node(ids["LoRA2Train"])
    save = graphs.save(graph, train, "demo")
    run = host.run(graph)
    assert len(run.outputs[ids["Learned from"]]["images"]) == 5
    without, with_it = (
        [np.asarray(host.image(entry)) for entry in run.outputs[ids[title]]["images"]]
        for title in ("Without the adapter", "With the adapter")
    )
    assert len(without) == len(with_it) == 4
    assert all((a != b).any() for a, b in zip(without, with_it, strict=True))
    [shown] = run.outputs[ids["Learned ranks"]]["lora2_ranks"]
    assert shown["report"]["totals"]["components"] == 120
    assert shown["report"]["totals"]["max_rank"] <= 32

    second = Graph()
    loaded = second.node("LoRA2DemoModel")
    name = graphs.saved_file(host, run, save).name
    load = second.node(
        "LoRA2Load", model=loaded[0], clip=loaded[1], lora_name=name,
        strength_model=1.0, strength_clip=1.0, keep="everything",
    )  # fmt: skip
    both = second.node("CLIPTextEncode", clip=load[1], text=PROMPT)
    second.node("PreviewAny", source=both[0])
    run = host.run(second)
    assert run.outputs[load.id]["text"] == ["matched 120 of 120 components"]
