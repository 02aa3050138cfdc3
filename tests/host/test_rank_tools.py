"""Merging, compressing, expanding and loading to a budget, in the real host."""

import json

import pytest
import torch
from host import checkpoints, graphs
from host.comfy_host import Graph
from safetensors.torch import save_file

from lora2_core.files import adapter_file
from lora2_core.files.adapter_file import components


@pytest.fixture
def two(host):
    content = graphs.random_lora(host, "content", 1, (1, 4, 9))
    return content, graphs.random_lora(host, "style", 2, (6,))


def pick(graph, name, weight=1.0, **more):
    return graph.node("LoRA2Pick", lora_name=name, weight=weight, **more)


EVERYTHING = {"keep": "everything", "rank": 32, "energy": 0.95, "megabytes": 50.0}


def merged(graph, *picks, **changes):
    sockets = {f"loras.lora_{i}": link[0] for i, link in enumerate(picks)}
    return graph.node("LoRA2Merge", **(EVERYTHING | changes), **sockets)


def test_a_merge_samples_as_its_inputs_one_after_the_other(host, two):
    def adapt(graph, loaded):
        lora = merged(graph, pick(graph, two[0], 0.8), pick(graph, two[1], 0.5))
        model = graph.node(
            "LoraModelLoader", model=loaded.model, lora=lora[0], strength_model=1.0, bypass=False
        )
        return model[0], loaded.clip

    plain = graphs.sample(host)
    found = graphs.sample(host, adapt)
    expected = graphs.sample(host, graphs.with_theirs(*two, strengths=(0.8, 0.5)))
    assert (expected - plain).abs().max() > 0.1  # the adapters do something
    assert torch.allclose(found, expected, atol=2e-3 * float(expected.abs().max()))


def test_merge_then_save_and_what_the_file_says(host, two):
    graph = Graph()
    lora = merged(
        graph, pick(graph, two[0], 0.8), pick(graph, two[1], 0.5, cross_attention=0.0),
        keep="rank", rank=5,
    )  # fmt: skip
    saved = graphs.save(graph, lora, "merged/both")
    preview = graph.node("PreviewAny", source=lora[1])
    run = host.run(graph)
    state = adapter_file.read(graphs.saved_file(host, run, saved))
    assert max(f.rank for f in components(state).values()) == 5
    expected = "content.safetensors × 0.8, style.safetensors × 0.5"
    assert state.metadata["modelspec.merged_from"] == expected
    sources = [components(adapter_file.read(host.base / "models" / "loras" / n)) for n in two]
    cross = next(n for n in components(state) if n.endswith("attn2_to_q"))
    rank = min(5, sources[0][cross].rank)
    found = components(state)[cross].delta()
    u, s, vt = torch.linalg.svd(0.8 * sources[0][cross].delta(), full_matrices=False)
    assert torch.allclose(found, (u[:, :rank] * s[:rank]) @ vt[:rank], atol=1e-4)
    text = run.outputs[lora.id]["text"][0]
    assert "% of the energy kept" in text
    assert "retained" in str(run.outputs[preview.id])


def test_a_pick_below_0_of_some_blocks_takes_away_what_it_does(host, two):
    graph = Graph()
    lora = merged(
        graph, pick(graph, two[0]), pick(graph, two[0], -1.0, blocks="up=0"),
        pick(graph, two[1], 0.0),
    )  # fmt: skip
    saved = graphs.save(graph, lora, "merged/less", precision="fp32")
    run = host.run(graph)
    state = adapter_file.read(graphs.saved_file(host, run, saved))
    assert state.metadata["modelspec.merged_from"] == f"{two[0]} × 1, {two[0]} × -1"
    source = components(adapter_file.read(host.base / "models" / "loras" / two[0]))
    for name, factors in components(state).items():
        expected = source[name].delta() * ("output_blocks" in name)
        assert torch.allclose(factors.delta(), expected, atol=1e-6)


def test_compress_a_file_to_megabytes(host, two):
    graph = Graph()
    lora = graph.node(
        "LoRA2Compress", lora_name=two[0], keep="megabytes", rank=1, energy=0.9, megabytes=0.6
    )
    saved = graphs.save(graph, lora, "small/content", precision="fp16")
    run = host.run(graph)
    path = graphs.saved_file(host, run, saved)
    assert 0.55e6 < path.stat().st_size <= 0.6e6
    ranks = {f.rank for f in components(adapter_file.read(path)).values()}
    assert len(ranks) > 1


def test_expand_several_to_the_largest(host, two):
    graph = Graph()
    lora = graph.node(
        "LoRA2ExpandRanks",
        rank=0,
        **{f"loras.lora_{i}": pick(graph, name)[0] for i, name in enumerate(two)},
    )
    saved = graphs.save(graph, lora, "even")
    run = host.run(graph)
    names = run.outputs[saved.id]["text"]
    assert len(names) == 2
    for text, source in zip(names, two, strict=True):
        file = host.base / "models" / "loras" / text.removeprefix("saved ").rsplit(" (", 1)[0]
        found = components(adapter_file.read(file))
        before = components(adapter_file.read(host.base / "models" / "loras" / source))
        assert {f.rank for f in found.values()} == {9}
        for name, factors in found.items():
            assert torch.allclose(factors.delta(), before[name].delta(), atol=1e-6)


def test_load_with_everything_is_the_hosts_loader_to_the_bit(host, two):
    ours = graphs.sample(host, graphs.with_ours(two[0], **EVERYTHING))
    theirs = graphs.sample(host, graphs.with_theirs(two[0]))
    assert torch.equal(ours, theirs)


def loaded(host, name, **settings):
    """What LoRA2Load says in its node, and its report."""
    graph = Graph()
    model, clip, _ = checkpoints.load(host, graph, "small_koala")
    node = graph.node(
        "LoRA2Load", model=model, clip=clip, lora_name=name, strength_model=1.0, **settings
    )
    graph.node("PreviewAny", source=node[2])
    run = host.run(graph)
    return run.outputs[node.id]["text"][0]


def test_load_to_a_budget_says_what_is_left(host, two):
    full = loaded(host, two[0])
    assert full.startswith("matched 168 of 168 components") and "energy" not in full
    text = loaded(host, two[0], **(EVERYTHING | {"keep": "megabytes", "megabytes": 0.7}))
    assert "mean rank 4.7 → " in text and "% of the energy kept" in text
    assert float(text.rsplit(", ", 1)[1].removesuffix(" MB")) <= 0.7
    again = loaded(host, two[0], **(EVERYTHING | {"keep": "rank", "rank": 2}))
    assert "mean rank 4.7 → 1.7" in again


def test_strengths_by_attention_and_block(host, two):
    nothing = {"self_attention": 0.0, "cross_attention": 0.0}
    assert torch.equal(
        graphs.sample(host, graphs.with_ours(two[0], **nothing)), graphs.sample(host)
    )
    down = graphs.sample(host, graphs.with_ours(two[0], blocks="up=0"))
    up = graphs.sample(host, graphs.with_ours(two[0], blocks="down=0"))
    both = graphs.sample(host, graphs.with_ours(two[0], blocks="down=1, up=1"))
    assert not torch.allclose(down, up)
    expected = graphs.sample(host, graphs.with_theirs(two[0]))
    assert torch.allclose(both, expected, atol=1e-4 * float(expected.abs().max()))


D = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
SPELLINGS = {
    "diffusers": f"unet.{D}",
    "nested": f"unet.base_model.model.{D}",
    "no prefix": D,
    "lycoris": f"lycoris_{D.replace('.', '_')}",
    "comfy": "diffusion_model.input_blocks.3.1.transformer_blocks.0.attn1.to_q",
    "trailing": "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q_",
}


@pytest.mark.parametrize("style", SPELLINGS)
@pytest.mark.parametrize("keep", ["everything", "rank"])
def test_load_places_every_writers_names(host, style, keep):
    """The host's own map knows `….processor.to_q` alone of diffusers' names."""
    generator = torch.Generator().manual_seed(4)
    down, up = torch.randn(3, 320, generator=generator), torch.randn(320, 3, generator=generator)

    def stored(name, file):
        tensors = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        save_file(tensors, host.base / "models" / "loras" / f"{file}.safetensors")
        return f"{file}.safetensors"

    settings = EVERYTHING | {"keep": keep, "rank": 3}
    name = stored(SPELLINGS[style], f"{style} {keep}")
    assert loaded(host, name, **settings).startswith("matched 1 of 1 components")
    plain = stored(SPELLINGS["comfy"], f"plain {keep}")
    found = graphs.sample(host, graphs.with_ours(name, **settings))
    expected = graphs.sample(host, graphs.with_theirs(plain))
    assert not torch.equal(expected, graphs.sample(host))
    assert torch.allclose(found, expected, atol=2e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("keep", ["everything", "rank"])
def test_load_takes_the_alpha_that_peft_keeps_beside_the_file(host, keep):
    generator = torch.Generator().manual_seed(5)
    down, up = torch.randn(4, 320, generator=generator), torch.randn(320, 4, generator=generator)
    loras = host.base / "models" / "loras"
    (loras / f"peft_{keep}").mkdir()
    name = f"peft_{keep}/adapter_model.safetensors"
    tensors = {f"base_model.model.{D}.lora_A.weight": down,
               f"base_model.model.{D}.lora_B.weight": up}  # fmt: skip
    save_file(tensors, loras / name)
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 2, "alpha_pattern": {f"^{D}": 16}}
    (loras / f"peft_{keep}" / "adapter_config.json").write_text(json.dumps(settings))
    plain = f"alpha_{keep}.safetensors"
    comfy = SPELLINGS["comfy"]
    save_file(
        {f"{comfy}.lora_A.weight": down, f"{comfy}.lora_B.weight": up,
         f"{comfy}.alpha": torch.tensor(16.0)}, loras / plain
    )  # fmt: skip
    found = graphs.sample(host, graphs.with_ours(name, **(EVERYTHING | {"keep": keep, "rank": 4})))
    expected = graphs.sample(host, graphs.with_theirs(plain))
    assert not torch.equal(expected, graphs.sample(host))
    assert torch.allclose(found, expected, atol=2e-3 * float(expected.abs().max()))


def test_every_node_says_that_blocks_were_assumed_to_be_sdxls(host):
    down, up = torch.ones(2, 640), torch.ones(640, 2)
    name = "assumed.safetensors"
    tensors = {f"unet.{D}.lora_A.weight": down, f"unet.{D}.lora_B.weight": up}
    save_file(tensors, host.base / "models" / "loras" / name)
    graph = Graph()
    limits = {"keep": "rank", "rank": 1, "energy": 0.9, "megabytes": 1.0}
    nodes = [
        merged(graph, pick(graph, name)),
        graph.node("LoRA2Compress", lora_name=name, **limits),
        graph.node("LoRA2ExpandRanks", rank=0, **{"loras.lora_0": pick(graph, name)[0]}),
        graph.node("LoRA2RankMap", lora_name=name),
    ]
    for node in nodes:
        graph.node("PreviewAny", source=node[1])
    heatmap = graph.node("LoRA2RankHeatmap", lora_name=name)
    run = host.run(graph)
    said = [run.outputs[node.id]["text"][0] for node in nodes]
    said.append(run.outputs[heatmap.id]["lora2_ranks"][0]["note"])
    assert [("read as SDXL's" in text) for text in said] == [True] * 5, said
    assert run.outputs[nodes[3].id]["text"][0].endswith("1 components, rank 2 to 2, mean 2.0")


def refused(host, graph, word):
    run = host.run(graph, check=False)
    assert run.error is not None
    assert word in run.error["exception_message"], run.error["exception_message"]


def test_bad_input_is_named(host, two):
    graph = Graph()
    graphs.save(graph, merged(graph, pick(graph, "(connected lora)")), "never")
    refused(host, graph, "not connected")
    graph = Graph()
    limits = {"keep": "megabytes", "rank": 1, "energy": 0.9, "megabytes": 0.01}
    graphs.save(graph, graph.node("LoRA2Compress", lora_name=two[0], **limits), "never")
    refused(host, graph, "give at least")
    graph = Graph()
    lora = graph.node("LoRA2ExpandRanks", rank=3, **{"loras.lora_0": pick(graph, two[0])[0]})
    graphs.save(graph, lora, "never")
    refused(host, graph, "compress")
    graph = Graph()
    lora = graph.node("LoRA2ExpandRanks", rank=0, **{"loras.lora_0": pick(graph, two[0], 0.5)[0]})
    graphs.save(graph, lora, "never")
    refused(host, graph, "LoRA² Merge")
    for settings, word in (
        ({"weight": 0.0}, "every weight is 0"),
        ({"blocks": "left=2"}, "left=2"),
    ):
        graph = Graph()
        graphs.save(graph, merged(graph, pick(graph, two[0], **settings)), "never")
        refused(host, graph, word)
    graph = Graph()
    model, clip, _ = checkpoints.load(host, graph, "small_koala")
    node = graph.node(
        "LoRA2Load", model=model, clip=clip, lora_name=two[0], strength_model=1.0, blocks="left=2"
    )
    graph.node("PreviewAny", source=node[2])
    refused(host, graph, "left=2")
    assert not list((host.base / "models" / "loras").glob("never*"))
