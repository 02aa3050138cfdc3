"""Text encoders that are trained beside the UNet, in the host."""

import numpy as np
import pytest
import torch
from host import checkpoints, graphs
from host.comfy_host import Graph, NodeFailed
from PIL import Image
from safetensors.torch import load_file

CAPTION = "a photo of a sks dog"  # of graphs.dataset


def begun(host, captions=(CAPTION,), **settings):
    """A training with clip and captions connected."""
    graph, train = graphs.training(host, **settings)
    data = next(n for n in graph.values() if n["class_type"] == "MakeTrainingDataset")
    inputs = graph[train.id]["inputs"]
    inputs["clip"] = data["inputs"]["clip"]
    if captions:
        # the host makes a list of what goes into a list input
        words = graph.node("PrimitiveString", value=captions[0])
        inputs["captions"] = words[0]
    return graph, train


def file_of(host, graph, train, prefix):
    node = graphs.save(graph, train, prefix)
    return graphs.saved_file(host, host.run(graph), node)


def test_it_learns_all_three_and_the_host_loads_them(host):
    before = graphs.sample(host)
    path = file_of(host, *begun(host, steps=4), "text")
    state = load_file(path)
    heads = {key.split("_")[1] for key in state}
    assert heads == {"te1", "te2", "unet"}
    for head in heads:
        assert any(
            tensor.any()
            for key, tensor in state.items()
            if key.startswith(f"lora_{head}_") and "lora_up" in key
        )
    assert torch.equal(graphs.sample(host), before)

    def loaded(with_clip):
        def adapt(graph: Graph, parts: checkpoints.Loaded):
            more = {"clip": parts.clip, "strength_clip": 1.0} if with_clip else {}
            node = graph.node(
                "LoRA2Load", model=parts.model, lora_name=path.name, strength_model=1.0, **more
            )
            return node[0], node[1] if with_clip else parts.clip

        return graphs.sample(host, adapt)

    def by_the_host(graph: Graph, parts: checkpoints.Loaded):
        node = graph.node(
            "LoraLoader", model=parts.model, clip=parts.clip, lora_name=path.name,
            strength_model=1.0, strength_clip=1.0,
        )  # fmt: skip
        return node[0], node[1]

    whole, unet = loaded(True), loaded(False)
    assert not torch.equal(whole, unet) and not torch.equal(unet, before)
    torch.testing.assert_close(whole, graphs.sample(host, by_the_host), rtol=1e-3, atol=1e-3)


def test_captions_are_encoded_as_the_host_encodes_them(host):
    for text in (CAPTION, "", "a (sks:1.4) dog [on grass]", "many words " * 60):
        graph = Graph()
        loaded = checkpoints.load(host, graph, "small_koala")
        latent = graph.node("EmptyLatentImage", width=128, height=128, batch_size=1)
        positive = graph.node("CLIPTextEncode", clip=loaded.clip, text=text)
        node = graph.node(
            "EncodedAgain", model=loaded.model, clip=loaded.clip, latent=latent[0],
            positive=positive[0], text=text,
        )  # fmt: skip
        told = host.run(graph).outputs[node.id]["text"]
        assert len(told) == 2 and all(float(line.split()[1]) < 1e-5 for line in told), told
    assert "(1, 154, 2048)" in " ".join(told)


def test_it_learns_in_half_precision_too(host):
    state = load_file(file_of(host, *begun(host, steps=2, training_dtype="bf16"), "half"))
    for head in ("te1", "te2", "unet"):
        ups = [t for k, t in state.items() if k.startswith(f"lora_{head}_") and "lora_up" in k]
        assert any(up.any() for up in ups) and all(up.isfinite().all() for up in ups)


PROMPT, UNWANTED = "a sks dog on the beach", "blurry"


def previewing(graph, train, negative=False, without=()):
    """Connects LoRA2Preview to a training with clip, but for the inputs `without`."""
    data = next(n for n in graph.values() if n["class_type"] == "MakeTrainingDataset")["inputs"]

    def both(text):
        words = graph.node("PrimitiveString", value=text)
        return graph.node("CLIPTextEncode", clip=data["clip"], text=words[0])[0], words[0]

    positive, said = both(PROMPT)
    inputs = {"positive": positive, "texts": said}
    if negative:
        inputs["negative"], inputs["negative_texts"] = both(UNWANTED)
    inputs = {name: link for name, link in inputs.items() if name not in without}
    preview = graph.node(
        "LoRA2Preview", vae=data["vae"], every=2, width=128, height=96, **inputs, **graphs.PREVIEW
    )
    graph[train.id]["inputs"]["preview"] = preview[0]


def test_previews_are_drawn_with_the_encoders_in_training_and_change_nothing(host):
    plain = load_file(file_of(host, *begun(host, steps=4), "unwatched"))
    graph, train = begun(host, steps=4, run="watched")
    previewing(graph, train, negative=True)
    path = file_of(host, graph, train, "watched")
    watched = load_file(path)
    assert all(torch.equal(watched[key], plain[key]) for key in plain)

    folder = host.base / "output" / "lora2_runs" / "watched_00001" / "previews"
    early, late = (
        np.asarray(Image.open(folder / f"step_00000{step}.png"), float) for step in (2, 4)
    )
    exact, with_old_encoders = (
        graphs.drawn_with(host, path.name, PROMPT, UNWANTED, strength_clip=strength)
        for strength in (1.0, 0.0)
    )
    apart = np.abs(late - exact).mean()
    assert apart < 0.2 * np.abs(early - exact).mean()
    assert apart < 0.2 * np.abs(with_old_encoders - exact).mean()


@pytest.mark.parametrize(
    ("captions", "more", "words"),
    [
        ((), None, "clip is connected.*but captions is not"),
        ((CAPTION,), {"without": ["texts"]}, "text encoders are trained, and LoRA² Preview has no"),
        ((CAPTION,), {"negative": True, "without": ["negative_texts"]}, "of its negative to"),
    ],
)
def test_what_does_not_go_together_is_said(host, captions, more, words):
    graph, train = begun(host, captions, steps=1)
    if more is not None:
        previewing(graph, train, **more)
    graphs.save(graph, train, "never")
    with pytest.raises(NodeFailed, match=words):
        host.run(graph)
