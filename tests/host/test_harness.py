"""The harness itself, with the host's own nodes only: what the other tests here stand on."""

import json
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from host import checkpoints
from host.comfy_host import (
    ROOT,
    Graph,
    HostError,
    NodeFailed,
    PromptRejected,
    check_requirements,
    find_path,
    find_python,
)
from packaging.requirements import Requirement

PHOTOGRAPHS = ROOT / "tests" / "data" / "dog"


def sampling(host, checkpoint, steps=2, size=128):
    """A graph from checkpoint to picture; returns it, its sampler and its output node."""
    graph = Graph()
    model, clip, vae = checkpoints.load(host, graph, checkpoint)
    dog = graph.node("CLIPTextEncode", clip=clip, text="a photo of a dog")
    nothing = graph.node("CLIPTextEncode", clip=clip, text="")
    latent = graph.node("EmptyLatentImage", width=size, height=size, batch_size=1)
    sampler = graph.node(
        "KSampler",
        model=model,
        positive=dog[0],
        negative=nothing[0],
        latent_image=latent[0],
        seed=1,
        steps=steps,
        cfg=3.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=1.0,
    )
    picture = graph.node("VAEDecode", samples=sampler[0], vae=vae)
    save = graph.node("SaveImage", images=picture[0], filename_prefix=checkpoint)
    return graph, sampler, save


def read_afresh(host, graph):
    """Gives the first loader's file another name: the host keeps what it has read under the old."""
    inputs = next(n["inputs"] for n in graph.values() if "ckpt_name" in n["inputs"])
    folder = host.base / "models" / "checkpoints"
    known, inputs["ckpt_name"] = inputs["ckpt_name"], f"{uuid4().hex}.safetensors"
    (folder / inputs["ckpt_name"]).hardlink_to(folder / known)


def check_picture(host, checkpoint):
    graph, sampler, save = sampling(host, checkpoint)
    read_afresh(host, graph)
    run = host.run(graph)
    assert "model_type EPS" in run.log
    for word in ("missing", "unexpected"):  # no name of ours is wrong, none is left out
        assert word not in run.log
    assert run.progress[-1] == (sampler.id, 2, 2)
    picture = np.asarray(host.image(run.outputs[save.id]["images"][0]))
    assert picture.shape == (128, 128, 3)
    assert picture.std() > 5  # the host writes NaN as black
    assert np.isin(picture, (0, 255)).mean() < 0.2


def test_the_stock_loader_takes_the_small_koala(host):
    check_picture(host, "small_koala")


def test_results_are_kept_between_prompts(host):
    graph, sampler, _ = sampling(host, "small_koala")
    host.run(graph)
    graph[sampler.id]["inputs"]["seed"] = 2
    run = host.run(graph)
    assert "1" in run.cached
    assert run.executed[0] == sampler.id


def test_interrupt(host):
    graph, _, save = sampling(host, "small_koala", steps=200)
    run = host.run(graph, on_event=lambda kind, _: kind == "progress" and host.interrupt())
    assert run.interrupted and run.error is None and not run.ok
    assert save.id not in run.executed
    assert run.progress[-1][1] < 100


def test_a_data_set_from_photographs(host):
    graph = Graph()
    _, clip, vae = checkpoints.load(host, graph, "small_koala")
    images = graph.node("LoadImageDataSetFromFolder", folder=host.add_images(PHOTOGRAPHS, "dog"))
    caption = graph.node("PrimitiveString", value="a photo of a sks dog")
    data = graph.node("MakeTrainingDataset", images=images[0], vae=vae, clip=clip, texts=caption[0])
    graph.node(
        "SaveTrainingDataset",
        latents=data[0],
        conditioning=data[1],
        folder_name="dog",
        shard_size=10,
    )
    host.run(graph)
    saved = json.loads((host.dataset("dog") / "metadata.json").read_text())
    assert saved["num_samples"] == 5


def test_small_pictures(host):
    host.add_images(PHOTOGRAPHS, "small", size=64, count=2)
    assert len(list((host.base / "input" / "small").iterdir())) == 2
    sent = host.upload_image(PHOTOGRAPHS / "00.jpg", "sent")
    assert host.image(sent).width == 512


def test_a_failing_node_says_so(host):
    (host.base / "input" / "empty").mkdir()
    graph = Graph()
    images = graph.node("LoadImageDataSetFromFolder", folder="empty")
    graph.node("SaveImage", images=images[0], filename_prefix="x")
    with pytest.raises(NodeFailed, match="No valid images found") as raised:
        host.run(graph)
    error = raised.value.run.error
    assert error["node_id"] == images.id
    assert error["node_type"] == "LoadImageDataSetFromFolder"
    assert error["exception_type"] == "ValueError"
    assert host.run(graph, check=False).error["exception_message"].startswith("No valid images")
    assert host.get("/system_stats")


def test_a_graph_that_cannot_run_is_refused(host):
    graph = Graph()
    graph.node("NoSuchNode")
    with pytest.raises(PromptRejected, match="NoSuchNode"):
        host.run(graph)
    assert host.object_info("NoSuchNode") == {}
    assert "ckpt_name" in host.object_info("CheckpointLoaderSimple")["input"]["required"]


def test_the_stock_loader_takes_the_small_sdxl(host):
    check_picture(host, "small_sdxl")


@pytest.mark.slow
def test_the_stock_loader_takes_a_whole_koala(host):
    check_picture(host, "koala_700m")


def comfyui_at(path: Path) -> Path:
    """Files by which a ComfyUI is known."""
    python = path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    for file in (path / "main.py", path / "folder_paths.py", python):
        file.touch()
    return path


def test_where_the_host_is_looked_for(tmp_path, monkeypatch):
    for name in ("COMFYUI_PATH", "COMFYUI_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    pack = tmp_path / "elsewhere" / "pack"
    pack.mkdir(parents=True)
    with pytest.raises(HostError, match="COMFYUI_PATH is not set"):
        find_path(pack)
    default = comfyui_at(tmp_path / "comfy" / "ComfyUI")
    assert find_path(pack) == default
    around = comfyui_at(tmp_path / "around")
    (around / "custom_nodes").mkdir()
    (around / "custom_nodes" / "pack").symlink_to(pack, target_is_directory=True)
    assert find_path(around / "custom_nodes" / "pack") == around
    named = comfyui_at(tmp_path / "named")
    monkeypatch.setenv("COMFYUI_PATH", str(named))
    assert find_path(around / "custom_nodes" / "pack") == named
    assert find_python(named) == named / ".venv" / "bin" / "python"
    monkeypatch.setenv("COMFYUI_PYTHON", str(tmp_path / "nowhere"))
    with pytest.raises(HostError, match="COMFYUI_PYTHON"):
        find_python(named)
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(HostError, match="COMFYUI_PATH is"):
        find_path(pack)


def test_a_python_that_lacks_a_requirement_is_named_with_the_line_that_installs_it(tmp_path):
    """Before any test runs: in the middle of one it would be a traceback of the server's."""
    python = tmp_path / "python"
    listed = (ROOT / "requirements.txt").read_text().split()
    found = {Requirement(line).name: "999" for line in listed}
    found |= {"safetensors": "0.3", "diffusers": None}
    python.write_text(f"#!/bin/sh\necho '{json.dumps(found)}'\n")
    python.chmod(0o755)
    with pytest.raises(HostError) as raised:
        check_requirements(python)
    text = str(raised.value)
    assert "safetensors>=0.4.2 (0.3)" in text and "diffusers>=0.31 (not there)" in text
    assert "torch" not in text and "pillow" not in text
    assert f"{python} -m pip install -r {ROOT / 'requirements.txt'}" in text
