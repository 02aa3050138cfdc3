"""What a graph says that training does not follow: each is named once; what fits is quiet."""

import pytest
from host import graphs
from host.comfy_host import NodeFailed


def troubles(run):
    """Warnings of the log, without the other lines."""
    lines = [line for line in run.log.splitlines() if "LoRA² " in line]
    return [line.partition("LoRA² ")[2] for line in lines if "LoRA² step" not in line]


def begun(host, **settings):
    graph, train = graphs.training(host, **({"steps": 1} | settings))
    graph.node("PreviewAny", source=train[3])
    return graph, graph[train.id]["inputs"]


def told(host, graph, word):
    found = [text for text in troubles(host.run(graph)) if word in text]
    assert len(found) == 1, found
    return found[0]


def test_a_plain_run_is_quiet(host):
    graph, _ = begun(host, seed=101)
    assert troubles(host.run(graph)) == []


def test_empty_latents(host):
    graph, inputs = begun(host)
    inputs["latents"] = graph.node("EmptyLatentImage", width=64, height=64, batch_size=5)[0]
    assert "5 of 5 latents are zero" in told(host, graph, "zero")


def test_settings_that_cannot_do_what_they_say(host):
    found = troubles(host.run(begun(host, batch_size=6)[0]))
    found += troubles(host.run(begun(host, training_dtype="fp16")[0]))
    for words in ("batch_size is 6", "fp16 on a CPU"):
        assert sum(words in text for text in found) == 1, found


def conditioned(graph, inputs, node, **settings):
    inputs["positive"] = graph.node(node, conditioning=inputs["positive"], **settings)[0]


AREA = {"width": 64, "height": 64, "x": 0, "y": 0}


@pytest.mark.parametrize(
    ("node", "settings", "words"),
    [
        ("ConditioningSetArea", AREA | {"strength": 1.0}, "an area,"),
        ("ConditioningSetAreaStrength", {"strength": 0.5}, "a strength,"),
        ("ConditioningSetTimestepRange", {"start": 0.2, "end": 1.0}, "a range of times,"),
    ],
)
def test_a_conditioning_for_a_part(host, node, settings, words):
    graph, inputs = begun(host)
    conditioned(graph, inputs, node, **settings)
    assert words in told(host, graph, "the conditioning of latents")


def test_a_whole_range_of_times_is_none(host):
    graph, inputs = begun(host, seed=102)
    conditioned(graph, inputs, "ConditioningSetTimestepRange", start=0.0, end=1.0)
    assert troubles(host.run(graph)) == []


def test_masks(host):
    graph, inputs = begun(host)
    mask = graph.node("SolidMask", value=1.0, width=64, height=64)[0]
    conditioned(
        graph, inputs, "ConditioningSetMask", mask=mask, strength=1.0, set_cond_area="default"
    )
    inputs["latents"] = graph.node("SetLatentNoiseMask", samples=inputs["latents"], mask=mask)[0]
    found = troubles(host.run(graph))
    assert sum("a mask," in text for text in found) == 1, found
    assert sum("a noise mask," in text for text in found) == 1, found


PATCHES = {
    "FreeU_V2": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
    "RescaleCFG": {"multiplier": 0.7},
    "PerturbedAttentionGuidance": {"scale": 3.0},
    "HyperTile": {"tile_size": 256, "swap_size": 2, "max_depth": 0, "scale_depth": False},
    "EasyCache": {
        "reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False
    },
    "TorchCompileModel": {"backend": "inductor"},
}  # fmt: skip


def test_patches_that_training_does_not_see_are_listed_once(host):
    graph, inputs = begun(host)
    for node, settings in PATCHES.items():
        inputs["model"] = graph.node(node, model=inputs["model"], **settings)[0]
    found = told(host, graph, "the model comes with").lower()
    for name in ("freeu_v2", "rescalecfg", "perturbedattention", "hypertile", "easycache"):
        assert name in found, found
    assert "compile" in found


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("video", r"of a video \(1, 16, 3, 8, 8\)"),
        ("one_frame", "of a video"),
        ("sound", r"of sound \(1, 64, 100\)"),
        ("sound_4d", "of sound"),
        ("both", r"of several parts at once \(Parts\)"),
        ("never", "a Never that holds no samples yet"),
    ],
)
def test_latents_of_no_picture_are_refused_by_their_kind(host, kind, words):
    graph, inputs = begun(host)
    inputs["latents"] = graph.node("MadeLatent", latent=inputs["latents"], kind=kind)[0]
    with pytest.raises(NodeFailed, match=f"latents are {words}"):
        host.run(graph)


@pytest.mark.parametrize("kind", ["realize", "on_demand"])
def test_latents_that_are_not_there_yet_are_realised(host, kind):
    def trained(waiting):
        graph, train = graphs.training(host, steps=2)
        inputs = graph[train.id]["inputs"]
        if waiting:
            inputs["latents"] = graph.node("MadeLatent", latent=inputs["latents"], kind=kind)[0]
            inputs["positive"] = graph.node(
                "MadeConditioning", conditioning=inputs["positive"], kind="realize"
            )[0]
        saved = graphs.save(graph, train, "waiting")
        return graphs.tensors(host, host.run(graph), saved)

    assert graphs.same(trained(True), trained(False))


def test_a_conditioning_that_cannot_be_realised_is_refused(host):
    graph, inputs = begun(host)
    conditioned(graph, inputs, "MadeConditioning", kind="never")
    with pytest.raises(NodeFailed, match="a Never that holds no encoded text yet"):
        host.run(graph)


def test_a_file_in_the_way_of_the_runs_folder(host):
    runs = host.base / "output" / "lora2_runs"
    runs.mkdir(parents=True, exist_ok=True)
    (runs / "dogs").write_text("precious")
    graph, _ = begun(host, run="dogs/rex")
    with pytest.raises(NodeFailed, match=r"/dogs is a file and no folder; choose another"):
        host.run(graph)


def test_what_was_said_before_the_first_step_is_on_the_page(host):
    graph, _ = begun(host, batch_size=7, seed=103)
    messages = []

    def listen(kind, data):
        if kind == "lora2.live":
            messages.append(data)

    host.run(graph, on_event=listen, client="page")
    [text] = [m["text"] for m in messages if m["kind"] == "trouble"]
    assert "batch_size is 7" in text
    kinds = [m["kind"] for m in messages]
    assert kinds.index("begin") < kinds.index("trouble")
