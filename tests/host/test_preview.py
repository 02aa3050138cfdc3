"""Previews in the real host: the adapter is the same with and without, to the bit."""

import io
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from host import checkpoints, graphs
from host.comfy_host import HostError
from PIL import Image

from lora2_core.files import adapter_file

STEPS = 6


def conditioned(graph, clip, text):
    return graph.node("CLIPTextEncode", clip=clip, text=text)[0]


def listed(host, graph, links):
    """One link to a list of them."""
    if not host.object_info("CreateList"):
        pytest.skip(f"ComfyUI {host.version} has no Create List")
    node = graph.node("CreateList", **{f"inputs.input{i}": link for i, link in enumerate(links)})
    return node[0]


def previewed(host, name, texts=("a sks dog",), run=None, **settings):
    """A training with previews: graph, train, save."""
    graph, train = graphs.training(host, steps=STEPS, seed=51, run=run or name)
    inputs = graph[train.id]["inputs"]
    loader = inputs["model"][0]
    clip, vae = [loader, 1], [loader, 2]
    positive = [conditioned(graph, clip, text) for text in texts]
    if len(positive) == 1:
        [positive] = positive
    else:
        positive = listed(host, graph, positive)
    given = {
        "vae": vae, "positive": positive, "every": 2, "width": 128, "height": 96, **graphs.PREVIEW,
    }  # fmt: skip
    preview = graph.node("LoRA2Preview", **(given | settings))
    inputs["preview"] = preview[0]
    return graph, train, graphs.save(graph, train, name)


def pictures(host, run):
    folder = host.base / "output" / "lora2_runs" / f"{run}_00001" / "previews"
    return {path.name: path for path in sorted(folder.iterdir())} if folder.exists() else {}


@pytest.fixture(scope="module")
def plain(host):
    graph, train = graphs.training(host, steps=STEPS, seed=51, run="plain")
    save = graphs.save(graph, train, "plain")
    image = graph.node("PreviewImage", images=train[4])
    run = host.run(graph)
    return {"tensors": graphs.tensors(host, run, save), "run": run, "image": image}


@pytest.fixture(scope="module")
def drawn(host):
    graph, train, save = previewed(host, "drawn")
    image = graph.node("PreviewImage", images=train[4])
    run = host.run(graph, client="page-p", workflow="graph-p")
    return {"run": run, "save": save, "train": train, "image": image}


def test_without_previews_the_output_is_nothing_and_what_hangs_on_it_is_left_out(plain):
    assert plain["run"].ok
    assert plain["image"].id not in plain["run"].outputs


def test_a_run_with_previews_is_the_run_without_bit_for_bit(host, plain, drawn):
    assert graphs.same(graphs.tensors(host, drawn["run"], drawn["save"]), plain["tensors"])


def test_pictures_and_sheet_are_in_the_runs_folder(host, drawn):
    found = pictures(host, "drawn")
    assert list(found) == [
        "sheet.png", "step_000002.png", "step_000004.png", "step_000006.png",
    ]  # fmt: skip
    sizes, pixels = set(), set()
    for name, path in found.items():
        with Image.open(path) as picture:
            if name != "sheet.png":
                sizes.add(picture.size)
                pixels.add(picture.tobytes())
    assert sizes == {(128, 96)}
    assert len(pixels) == 3, "the adapter did not show"
    [shown] = drawn["run"].outputs[drawn["image"].id]["images"]
    with Image.open(found["sheet.png"]) as sheet:
        assert host.image(shown).tobytes() == sheet.convert("RGB").tobytes()


def test_the_last_picture_is_what_the_saved_adapter_draws(host, drawn):
    name = graphs.saved_file(host, drawn["run"], drawn["save"]).name
    theirs = graphs.drawn_with(host, name, "a sks dog")
    with Image.open(pictures(host, "drawn")["step_000006.png"]) as picture:
        ours = np.asarray(picture, float)
    with Image.open(pictures(host, "drawn")["step_000002.png"]) as picture:
        early = np.asarray(picture, float)
    assert np.abs(ours - theirs).mean() < 0.2 * np.abs(early - theirs).mean()


def test_a_page_gets_them_small_and_nothing_else(host, drawn):
    state = host.get("/lora2/live?client=page-p&workflow=graph-p")[drawn["train"].id]
    assert state["previews"] == [{"step": step, "pictures": 1} for step in (2, 4, 6)]
    asked = {"run": state["begin"]["run"], "step": 4, "picture": 0}
    with Image.open(io.BytesIO(host.request(f"/lora2/preview?{urlencode(asked)}"))) as small:
        assert small.format == "JPEG" and small.size == (128, 96)
    for wrong in ({"step": 3}, {"picture": 1}, {"run": "x"}, {"step": "../../x"}, {"picture": -1}):
        with pytest.raises(HostError, match="404"):
            host.request(f"/lora2/preview?{urlencode(asked | wrong)}")


def test_several_prompts_are_several_pictures(host):
    graph, *_ = previewed(host, "several", texts=("a dog", "a cat"), every=100)
    host.run(graph)
    found = pictures(host, "several")
    assert list(found) == ["sheet.png", "step_000006_1.png", "step_000006_2.png"]
    assert found["step_000006_1.png"].read_bytes() != found["step_000006_2.png"].read_bytes()


def test_what_fails_is_told_and_stops_nothing(host, plain):
    """A checkpoint's latents have 4 channels; this VAE takes 16."""
    foreign = {
        f"{key}": torch.zeros(shape)
        for key, shape in checkpoints._taesd("", latent=16)
        if not key.startswith("vae_")
    }
    folder = host.base / "models" / "vae"
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints.save_file(foreign, folder / "foreign.safetensors")
    graph, train, save = previewed(host, "failing")
    vae = graph.node("VAELoader", vae_name="foreign.safetensors")
    next(n for n in graph.values() if n["class_type"] == "LoRA2Preview")["inputs"]["vae"] = vae[0]
    image = graph.node("PreviewImage", images=train[4])
    messages = []
    run = host.run(
        graph, client="page-f", workflow="graph-f",
        on_event=lambda kind, data: messages.append(data) if kind == "lora2.live" else None,
    )  # fmt: skip
    assert graphs.same(graphs.tensors(host, run, save), plain["tensors"])
    assert pictures(host, "failing") == {}
    assert image.id not in run.outputs
    told = [m["text"] for m in messages if m["kind"] == "trouble"]
    assert len(told) == 3 and told[0].startswith("the preview of step 2 could not be drawn: ")
    assert told[0] in run.log
    state = host.get("/lora2/live?client=page-f&workflow=graph-f")[train.id]
    assert state["trouble"] == told[-1]


def test_cancel_in_a_preview_stops_and_the_run_goes_on_with_it(host, plain):
    graph, train, _ = previewed(host, "stopped", steps=400, width=256, height=256)

    def cancel(kind, data):
        if kind == "progress" and data["node"] == train.id and data["value"] == 2:
            host.interrupt()

    run = host.run(graph, on_event=cancel)
    assert run.interrupted and run.error is None and run.seconds < 60
    assert pictures(host, "stopped") == {}
    kept = host.base / "output" / "lora2_runs" / "stopped_00001"
    assert [path.name for path in sorted(kept.iterdir())] == [
        "step_000002.safetensors", "step_000002.state.safetensors",
    ]  # fmt: skip
    before = adapter_file.read(kept / "step_000002.safetensors")
    assert before.metadata["ss_steps"] == "2"

    graph, train, save = previewed(host, "stopped")
    graph[train.id]["inputs"]["resume"] = "stopped_00001"
    run = host.run(graph)
    assert graphs.same(graphs.tensors(host, run, save), plain["tensors"])
    names = [name for name in pictures(host, "stopped") if name != "sheet.png"]
    assert names == ["step_000002.png", "step_000004.png", "step_000006.png"]


def test_the_model_is_left_as_it_was(host, drawn):
    graph, *_ = previewed(host, "left", width=64, height=64)
    before = graphs.sample(host)
    host.run(graph)
    assert torch.equal(graphs.sample(host), before)


def test_counts_that_differ_are_refused(host):
    graph, *_ = previewed(host, "counts", texts=("a", "b", "c"))
    node = next(n for n in graph.values() if n["class_type"] == "LoRA2Preview")
    clip = next(n for n in graph.values() if n["class_type"] == "CLIPTextEncode")["inputs"]["clip"]
    pair = [conditioned(graph, clip, text) for text in ("x", "y")]
    node["inputs"]["negative"] = listed(host, graph, pair)
    run = host.run(graph, check=False)
    assert "3 positive and 2 negative" in run.error["exception_message"]
    del node["inputs"]["negative"]
    node["inputs"]["texts"] = graph.node("PrimitiveString", value="a")[0]
    run = host.run(graph, check=False)
    assert "texts holds 1 texts for 3 conditionings" in run.error["exception_message"]
