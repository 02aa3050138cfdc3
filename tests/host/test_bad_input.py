"""What a user gets wrong: a clear error in the dialog, and a host that works on."""

import json
import re
import struct
from pathlib import Path

import pytest
import torch
from host import checkpoints, graphs
from host.comfy_host import Graph, PromptRejected
from safetensors.torch import save_file

from lora2_core.files import adapter_file


def files(host) -> set[Path]:
    folders = (host.base / "models" / "loras", host.base / "output")
    found = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
    return {path for path in found if "lora2_runs" not in path.parts}  # those keep what was trained


def refuse(host, graph, *words):
    """Runs a graph that must fail; nothing may be left behind, and the host must go on."""
    before = files(host)
    run = host.run(graph, check=False)
    assert run.error is not None, "the graph ran"
    message = run.error["exception_message"]
    for word in words:
        assert word in message, message
    assert files(host) == before
    alive = Graph()
    image = alive.node("EmptyImage", width=64, height=64, batch_size=1, color=0)
    alive.node("PreviewImage", images=image[0])
    assert host.run(alive).ok
    return run


def finished(host, checkpoint="small_koala", **settings):
    graph, train = graphs.training(host, checkpoint, **settings)
    graph.node("PreviewAny", source=train[3])
    return graph, train


def latents_from(host, graph, train, name, tensor):
    """Feeds LoRA2Train a latent from a file instead of the data set."""
    folder = host.base / "input"
    save_file({"latent_tensor": tensor, "latent_format_version_0": torch.tensor([])}, folder / name)
    node = graph.node("LoadLatent", latent=name)
    graph[train.id]["inputs"]["latents"] = node[0]


def test_an_empty_folder(host):
    (host.base / "input" / "nothing").mkdir(exist_ok=True)
    graph, _ = finished(host)
    loader = next(n for n in graph.values() if n["class_type"] == "LoadImageDataSetFromFolder")
    loader["inputs"]["folder"] = "nothing"
    refuse(host, graph, "No valid images")


def test_no_caption_trains_on_the_empty_one(host):
    graph, _ = finished(host, steps=1)
    data = next(n for n in graph.values() if n["class_type"] == "MakeTrainingDataset")
    del data["inputs"]["texts"]
    assert host.run(graph).ok


def test_no_conditioning_at_all(host):
    graph, train = finished(host)
    del graph[train.id]["inputs"]["positive"]
    with pytest.raises(PromptRejected, match="positive"):
        host.run(graph)


def test_counts_that_differ(host):
    graph, train = finished(host)
    latents_from(host, graph, train, "three.latent", torch.zeros(3, 4, 16, 16))
    refuse(host, graph, "3 latents", "5 conditionings")


def test_nan_in_latents(host):
    graph, train = finished(host)
    latents = torch.zeros(5, 4, 16, 16)
    latents[2, 1, 3, 3] = torch.nan
    latents_from(host, graph, train, "nan.latent", latents)
    refuse(host, graph, "latents 2", "NaN")


def test_latents_of_another_model(host):
    graph, train = finished(host)
    latents_from(host, graph, train, "sixteen.latent", torch.zeros(5, 16, 16, 16))
    refuse(host, graph, "(1, 16, 16, 16)", "4 channels")


def test_r_init_above_r_max(host):
    graph, _ = finished(host, preset="custom", r_init=32, r_max=8)
    refuse(host, graph, "r_init is 32", "r_max is 8")


def test_a_rank_above_the_size_of_a_layer(host):
    graph, _ = finished(host, preset="custom", r_init=400, r_max=400)
    refuse(host, graph, "rank 400", "320×320")


def test_zero_steps(host):
    graph, _ = finished(host, steps=0)
    with pytest.raises(PromptRejected, match="steps"):
        host.run(graph)


def test_a_model_with_another_sampling(host):
    graph, train = finished(host)
    model = graph[train.id]["inputs"]["model"]
    flow = graph.node("ModelSamplingSD3", model=model, shift=3.0)
    graph[train.id]["inputs"]["model"] = flow[0]
    refuse(host, graph, "SDXL", "ModelSamplingDiscreteFlow")


def test_half_of_the_prior(host):
    graph, train = finished(host)
    graph[train.id]["inputs"]["reg_latents"] = graph[train.id]["inputs"]["latents"]
    refuse(host, graph, "reg_positive")


def broken(host, graph, train):
    """A picture that is finite, but the square of a v-target made of it is not."""
    latents = torch.zeros(5, 4, 16, 16)
    latents[4] = 1e25
    latents_from(host, graph, train, "huge.latent", latents)
    model = graph[train.id]["inputs"]["model"]
    v = graph.node("ModelSamplingDiscrete", model=model, sampling="v_prediction", zsnr=False)
    graph[train.id]["inputs"]["model"] = v[0]


def test_a_gradient_that_breaks_is_told_of_before_anything_is_trained(host):
    graph, train = finished(host)
    broken(host, graph, train)
    refuse(host, graph, "the gradient is not finite before anything is trained", "VAE")


def test_a_loss_that_breaks_keeps_what_was_good(host):
    graph, train = finished(host, method="lora")
    broken(host, graph, train)
    graph[train.id]["inputs"]["run"] = "broken"
    run = host.run(graph, check=False)
    message = run.error["exception_message"]
    assert re.search("the loss became (inf|nan) at step", message), message
    folder = next((host.base / "output" / "lora2_runs").glob("broken_*"))
    assert folder.name in message
    (kept,) = (path for path in folder.iterdir() if ".state." not in path.name)
    done = int(adapter_file.read(kept).metadata["ss_steps"])
    assert f"at step {done + 1} of 12" in message


def lora(host, name, tensors, edit=lambda data: data):
    path = host.base / "models" / "loras" / name
    save_file(tensors, path)
    path.write_bytes(edit(path.read_bytes()))
    return name


def loading(host, name, checkpoint="small_koala"):
    graph = Graph()
    loaded = checkpoints.load(host, graph, checkpoint)
    node = graph.node("LoRA2Load", model=loaded.model, lora_name=name, strength_model=1.0)
    graph.node("PreviewAny", source=node[2])
    return graph


LAYER = "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q"


def plain(rank=2, out=320, width=320):
    return {
        f"{LAYER}.lora_down.weight": torch.zeros(rank, width),
        f"{LAYER}.lora_up.weight": torch.zeros(out, rank),
    }


def lying(data):
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header[f"{LAYER}.lora_down.weight"]["shape"] = [100_000, 100_000]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


@pytest.mark.parametrize(
    ("name", "tensors", "edit", "words"),
    [
        ("short.safetensors", plain(), lambda data: data[:-50], ["short.safetensors"]),
        ("lying.safetensors", plain(), lying, ["lying.safetensors"]),
        ("text.safetensors", plain(), lambda data: b"not a LoRA at all", ["text.safetensors"]),
        (
            "unpaired.safetensors",
            {f"{LAYER}.lora_down.weight": torch.zeros(2, 320)},
            lambda data: data,
            [LAYER],
        ),
        (
            "loha.safetensors",
            {f"{LAYER}.hada_w1_a": torch.zeros(2, 2)},
            lambda data: data,
            ["LoHa"],
        ),
        (
            "lokr.safetensors",
            {f"{LAYER}.lokr_w1": torch.zeros(2, 2)},
            lambda data: data,
            ["LoKr"],
        ),
        (
            "ia3.safetensors",
            {f"{LAYER}.weight": torch.ones(320), f"{LAYER}.on_input": torch.ones(())},
            lambda data: data,
            ["IA3", "neither"],
        ),
        (
            "norms.safetensors",
            {f"{LAYER}.diff_b": torch.ones(320, 320)},
            lambda data: data,
            ["another architecture", "diff_b"],
        ),
        ("wide.safetensors", plain(width=640), lambda data: data, ["320×640", "320×320"]),
        (
            "stranger.safetensors",
            {k.replace("input_blocks_3", "input_blocks_33"): v for k, v in plain().items()},
            lambda data: data,
            ["none of the 1 components", "SDXL"],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_cannot_be_used(host, name, tensors, edit, words):
    lora(host, name, tensors, edit)
    refuse(host, loading(host, name), *words)


def test_a_file_that_fits_in_part_says_so(host):
    stranger = {k.replace("input_blocks_3", "input_blocks_33"): v for k, v in plain().items()}
    lora(host, "half.safetensors", plain() | stranger)
    outputs = host.run(loading(host, "half.safetensors")).outputs
    said = [found["text"][0] for found in outputs.values() if "text" in found]
    [text] = [one for one in said if one.startswith("matched")]
    assert text.startswith("matched 1 of 2 components\nwarning: ")
    assert LAYER.replace("input_blocks_3", "input_blocks_33") in text


@pytest.mark.parametrize("prefix", ["../out", "/etc/out", "a/../../out", "..\\out", ""])
def test_a_name_that_leaves_the_folder(host, prefix):
    graph, train = graphs.training(host, steps=1)
    graphs.save(graph, train, prefix)
    run = refuse(host, graph, repr(prefix)[1:-1] or "name")
    assert run.error["node_type"] == "LoRA2Save"


def test_a_loader_name_outside_the_folder(host):
    with pytest.raises(PromptRejected, match="lora_name"):
        host.run(loading(host, "../checkpoints/small_koala.safetensors"))
