"""Cuts by what directions do to the loss of a connected model, in the real host."""

import itertools
import json

import pytest
import torch
from host import graphs
from host.comfy_host import Graph
from safetensors.torch import load_file

from lora2_core.files import adapter_file
from lora2_core.files.adapter_file import components
from lora2_core.files.effect_note import read_effect_note

PASSES = 3
LIMITS = {"keep": "effect", "rank": 2, "energy": 0.95, "megabytes": 0.15, "effect": 0.9}
_fresh = itertools.count()  # see graphs.sample


class Demo:
    """The demo model in a graph, with three pictures as the host's dataset node gives them: one at
    a time."""

    def __init__(self, graph: Graph):
        self.model, self.clip, self.vae = (graph.node("LoRA2DemoModel")[i] for i in range(3))
        drawn = graph.node("LoRA2DemoPictures", subject="tiger clock", count=3, seed=2)
        self.data = graph.node(
            "MakeTrainingDataset", images=drawn[0], texts=drawn[1], vae=self.vae, clip=self.clip
        )

    @property
    def sources(self) -> dict:
        """For what has a model of its own."""
        return {"latents": self.data[0], "positive": self.data[1], "passes": PASSES}

    @property
    def all(self) -> dict:
        return {"model": self.model} | self.sources


@pytest.fixture(scope="module")
def lora(host):
    """A LoRA of a few steps in the loras folder, which notes nothing of its effects."""
    graph = Graph()
    demo = Demo(graph)
    options = graph.node("LoRA2Options", **graphs.OPTIONS, effect_share=1.0)
    settings = {"method": "lora", "preset": "custom", "r_init": 4, "r_max": 4, "steps": 4}
    train = graph.node(
        "LoRA2Train", model=demo.model, latents=demo.data[0], positive=demo.data[1],
        options=options[0], **(graphs.SETTINGS | settings),
    )  # fmt: skip
    save = graphs.save(graph, train, "plain")
    path = graphs.saved_file(host, host.run(graph), save)
    assert not read_effect_note(adapter_file.read(path).metadata)
    return path


def written(host, graph, node):
    """What the node says, its adapter, and the run."""
    save = graphs.save(graph, node, "cut")
    run = host.run(graph)
    [text] = run.outputs[node.id]["text"]
    return text, adapter_file.read(graphs.saved_file(host, run, save)), run


def compressed(host, name, measures=True, **changes):
    graph = Graph()
    more = Demo(graph).all if measures else {}
    node = graph.node("LoRA2Compress", lora_name=name, **(LIMITS | more | changes))
    return written(host, graph, node)


def ranks(state):
    return {name: factors.rank for name, factors in components(state).items()}


def measured(run, node):
    return any((number, most) == (node.id, PASSES) for number, _, most in run.progress)


def sampled(host, adapt=None):
    """Latents that the demo model, or what adapt makes of it, draws."""
    graph = Graph()
    demo = Demo(graph)
    model = demo.model if adapt is None else adapt(graph, demo)
    prompt = graph.node("CLIPTextEncode", clip=demo.clip, text="a red boot on the beach")
    empty = graph.node("EmptyLatentImage", width=128, height=128, batch_size=1)
    sampler = graph.node(
        "KSampler", model=model, positive=prompt[0], negative=prompt[0], latent_image=empty[0],
        seed=3, steps=2, cfg=1.0, sampler_name="euler", scheduler="normal",
        denoise=1.0 - next(_fresh) * 1e-9,
    )  # fmt: skip
    stored = graph.node("SaveLatent", samples=sampler[0], filename_prefix="effect")
    run = host.run(graph)
    return load_file(host.file(run.outputs[stored.id]["latents"][0]))["latent_tensor"]


def test_compress_measures_once_on_all_pictures_and_the_file_is_cut_again(host, lora):
    before = sampled(host)
    text, whole, run = compressed(host, lora.name, effect=1.0)
    assert "100.00 % of the effect kept" in text
    assert sum(most == PASSES for _, _, most in run.progress) <= PASSES  # once, not once a picture
    assert read_effect_note(whole.metadata)
    text, direct, _ = compressed(host, lora.name)
    assert "% of the effect kept" in text
    assert sum(ranks(direct).values()) < sum(ranks(whole).values())
    assert torch.equal(sampled(host), before)

    graph = Graph()
    demo = Demo(graph)
    first = graph.node(
        "LoRA2Compress", lora_name=lora.name, **(LIMITS | demo.all | {"effect": 1.0})
    )
    second = graph.node("LoRA2Compress", lora_name="(connected lora)", lora=first[0], **LIMITS)
    _, later, run = written(host, graph, second)
    assert not measured(run, second)
    assert ranks(later) == ranks(direct)


@pytest.mark.parametrize("keep", ["megabytes", "rank"])
def test_a_connected_model_makes_a_budget_one_of_the_effect(host, lora, keep):
    text, state, _ = compressed(host, lora.name, keep=keep)
    assert "% of the effect kept" in text and read_effect_note(state.metadata)
    text, state, run = compressed(host, lora.name, keep=keep, how="prefix")
    assert "% of the energy kept" in text and not read_effect_note(state.metadata)
    assert all(most != PASSES for _, _, most in run.progress)


def test_a_merge_is_measured_as_a_whole_and_stays_a_merge(host, lora):
    graph = Graph()
    picks = [graph.node("LoRA2Pick", lora_name=lora.name, weight=w) for w in (0.75, -0.25)]
    node = graph.node(
        "LoRA2Merge", **LIMITS, **Demo(graph).all,
        **{f"loras.lora_{index}": pick[0] for index, pick in enumerate(picks)},
    )  # fmt: skip
    text, state, _ = written(host, graph, node)
    assert "mean rank 8.0 →" in text and "% of the effect kept" in text
    note = json.loads(state.metadata["lora2"])
    assert note["method"] == "merged"
    assert [one["weight"] for one in note["merged_from"]] == [0.75, -0.25]
    assert set(read_effect_note(state.metadata)) == set(ranks(state))


def test_load_measures_once_and_draws_as_the_compressed_file(host, lora):
    def load(graph, demo, **changes):
        return graph.node(
            "LoRA2Load", model=demo.model, lora_name=lora.name, strength_model=1.0,
            **(LIMITS | demo.sources | changes),
        )  # fmt: skip

    seen = []
    for share in (0.95, 0.9, 0.8):
        graph = Graph()
        node = load(graph, Demo(graph), effect=share)
        graph.node("PreviewAny", source=node[2])
        run = host.run(graph)
        assert "% of the effect kept" in run.outputs[node.id]["text"][0]
        seen.append(measured(run, node))
    assert seen == [True, False, False]

    def theirs(graph, demo):
        small = graph.node("LoRA2Compress", lora_name=lora.name, **(LIMITS | demo.all))
        return graph.node(
            "LoraModelLoader", model=demo.model, lora=small[0], strength_model=1.0, bypass=False
        )[0]

    found = sampled(host, lambda graph, demo: load(graph, demo)[0])
    expected = sampled(host, theirs)
    plain = sampled(host)
    assert not torch.equal(expected, plain)
    assert torch.allclose(found, expected, atol=2e-2 * float((expected - plain).abs().max()))


def test_adapters_in_a_list_come_one_after_the_other(host, lora):
    graph = Graph()
    pick = graph.node("LoRA2Pick", lora_name=lora.name, weight=1.0)
    even = graph.node(
        "LoRA2ExpandRanks", rank=8, **{"loras.lora_0": pick[0], "loras.lora_1": pick[0]}
    )
    node = graph.node(
        "LoRA2Compress", lora_name="(connected lora)", lora=even[0],
        **(LIMITS | Demo(graph).all | {"keep": "rank"}),
    )  # fmt: skip
    save = graphs.save(graph, node, "listed")
    run = host.run(graph)
    assert len(run.outputs[node.id]["text"]) == len(run.outputs[save.id]["text"]) == 2


@pytest.mark.parametrize("missing", ["model", "latents", "positive"])
def test_what_is_not_connected_is_named(host, lora, missing):
    graph = Graph()
    given = Demo(graph).all
    del given[missing]
    node = graph.node("LoRA2Compress", lora_name=lora.name, **(LIMITS | given))
    graphs.save(graph, node, "never")
    run = host.run(graph, check=False)
    assert f"and {missing} is not connected" in run.error["exception_message"]


def test_a_file_that_notes_nothing_asks_for_a_model(host, lora):
    graph = Graph()
    graphs.save(graph, graph.node("LoRA2Compress", lora_name=lora.name, **LIMITS), "never")
    run = host.run(graph, check=False)
    assert "connect a model" in run.error["exception_message"]


def test_another_model_is_refused(host, lora):
    graph = Graph()
    demo = Demo(graph)
    name = graphs.random_lora(host, "koala", 5, (2,))
    graphs.save(graph, graph.node("LoRA2Compress", lora_name=name, **(LIMITS | demo.all)), "never")
    run = host.run(graph, check=False)
    assert "connect the" in run.error["exception_message"]
