"""LoRA² Options: what it changes, what it leaves, and the host's own resolution buckets."""

import pytest
from host import graphs
from host.comfy_host import NodeFailed
from safetensors.torch import load_file


def begun(host, options=None, *, empty=False, caption=None, **settings):
    """A graph that trains for a few steps, with LoRA² Options if there are any."""
    graph, train = graphs.training(host, **({"steps": 3} | settings))
    clip = next(n for n in graph.values() if n["class_type"] == "MakeTrainingDataset")["inputs"][
        "clip"
    ]
    if options is not None:
        inputs = graphs.OPTIONS | options
        if empty:
            inputs["empty"] = graph.node("CLIPTextEncode", clip=clip, text="")[0]
        graph[train.id]["inputs"]["options"] = graph.node("LoRA2Options", **inputs)[0]
    if caption is not None:
        text = next(n for n in graph.values() if n["class_type"] == "PrimitiveString")
        text["inputs"]["value"] = caption
    return graph, train


def adapter(host, graph, train):
    node = graphs.save(graph, train, "options")
    return load_file(graphs.saved_file(host, host.run(graph), node))


def test_as_it_comes_it_changes_nothing_and_each_choice_changes_something(host):
    plain = adapter(host, *begun(host))
    assert graphs.same(plain, adapter(host, *begun(host, {})))
    for choice in (
        {"optimizer": "adafactor"},
        {"lr_scheduler": "constant"},
        {"start": "even"},
        {"importance": "unit_energy"},
        {"lr_warmup_steps": 2},
        {"min_snr_gamma": 0.01},
        {"noise_offset": 0.5},
        {"ema_decay": 0.9},
        {"repeats": 2},
        {"timestep_bias": "range", "timestep_bias_begin": 900, "timestep_bias_multiplier": 1000.0},
    ):
        assert not graphs.same(plain, adapter(host, *begun(host, choice))), choice


def test_a_smaller_share_of_the_effect_is_a_smaller_adapter(host):
    """Of runs that are long enough to know."""
    sizes = [
        sum(t.numel() for t in adapter(host, *begun(host, {"effect_share": s}, steps=32)).values())
        for s in (1.0, 0.99, 0.5)
    ]
    assert sizes[0] > sizes[1] > sizes[2]


def test_a_caption_that_is_always_dropped_is_the_empty_one(host):
    dropped = adapter(host, *begun(host, {"caption_dropout": 1.0}, empty=True))
    assert graphs.same(dropped, adapter(host, *begun(host, caption="")))
    assert not graphs.same(dropped, adapter(host, *begun(host)))


@pytest.mark.parametrize(
    ("options", "settings", "words"),
    [
        ({"caption_dropout": 0.5}, {}, "conditioning of an empty prompt"),
        ({"lr_warmup_steps": 9}, {}, "lr_warmup_steps is 9 but steps is 3"),
        ({"optimizer": "prodigy"}, {}, "set it to 1"),
    ],
)
def test_what_does_not_fit_is_said(host, options, settings, words):
    graph, train = begun(host, options, **settings)
    graphs.save(graph, train, "options")
    with pytest.raises(NodeFailed, match=words):
        host.run(graph)


def test_a_run_goes_on_with_its_own_options_only(host):
    graph, train = begun(host, {"ema_decay": 0.9, "noise_offset": 0.1}, run="knobs")
    adapter(host, graph, train)
    [name] = {path.parent.name for path in (host.base / "output/lora2_runs").glob("knobs*/*")}
    other, train = begun(host, {"ema_decay": 0.5, "noise_offset": 0.1}, resume=name, steps=4)
    graphs.save(other, train, "options")
    with pytest.raises(NodeFailed, match=r"ema_decay was 0\.9 and is 0\.5") as caught:
        host.run(other)
    assert "noise_offset was" not in str(caught.value)
    again, train = begun(host, {"ema_decay": 0.9, "noise_offset": 0.1}, resume=name, steps=4)
    assert adapter(host, again, train)


def test_the_hosts_resolution_buckets_feed_it(host):
    """The folder comes in the order of the buckets, so that the runs must be equal."""
    folder = host.add_images(graphs.PHOTOGRAPHS, "buckets", size=128)
    host.add_images(graphs.PHOTOGRAPHS, folder, size=192, count=2)  # replaces the first two

    def trained(bucketed, batch_size=2):
        graph, train = begun(host, batch_size=batch_size)
        loader = next(n for n in graph.values() if n["class_type"] == "LoadImageDataSetFromFolder")
        loader["inputs"]["folder"] = folder
        inputs = graph[train.id]["inputs"]
        if bucketed:
            bucket = graph.node(
                "ResolutionBucket", latents=inputs["latents"], conditioning=inputs["positive"]
            )
            inputs |= {"latents": bucket[0], "positive": bucket[1]}
        return adapter(host, graph, train)

    bucketed = trained(True)
    assert graphs.same(bucketed, trained(False))
    assert not graphs.same(bucketed, trained(True, batch_size=1))
