"""Graphs that the tests of our nodes share."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from host import checkpoints
from host.comfy_host import ROOT, ComfyHost, Graph, Node, Run
from safetensors.torch import load_file
from unet_shapes import KOALA_SMALL, unet_shapes

from lora2_core.files import writing
from lora2_core.files.adapter_file import LoraState
from lora2_core.files.module_names import kohya_name

PHOTOGRAPHS = ROOT / "tests" / "data" / "dog"
Adapt = Callable[[Graph, checkpoints.Loaded], tuple[list, list]]  # (model, clip) with a LoRA
SETTINGS = {
    "preset": "small",
    "method": "lora2",
    "steps": 12,
    "learning_rate": 1e-3,
    "seed": 3,
    "batch_size": 1,
    "targets": "attention",
    # random weights give ν a far smaller gradient than trained ones
    "lambda_r": 1e-6,
    "training_dtype": "fp32",
}
OPTIONS = {
    "optimizer": "adamw", "lr_scheduler": "cosine", "lr_warmup_steps": 0, "min_snr_gamma": 0.0,
    "noise_offset": 0.0, "caption_dropout": 0.0, "repeats": 1, "ema_decay": 0.0,
}  # fmt: skip
# makes of 1.0 a denoise that does the same and is another input, so that nothing comes from a cache
_fresh = itertools.count()
# of the sampler, for LoRA2Preview and drawn_with
PREVIEW = {"seed": 9, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}


def dataset(host: ComfyHost, graph: Graph, clip: list, vae: list, size: int = 128) -> Node:
    """The five photographs with one caption, through the host's own nodes."""
    folder = host.add_images(PHOTOGRAPHS, f"dog{size}", size=size)
    images = graph.node("LoadImageDataSetFromFolder", folder=folder)
    caption = graph.node("PrimitiveString", value="a photo of a sks dog")
    return graph.node("MakeTrainingDataset", images=images[0], vae=vae, clip=clip, texts=caption[0])


def training(host: ComfyHost, checkpoint: str = "small_koala", **settings) -> tuple[Graph, Node]:
    """Checkpoint, photographs and LoRA2Train; `settings` override SETTINGS."""
    graph = Graph()
    loaded = checkpoints.load(host, graph, checkpoint)
    data = dataset(host, graph, loaded.clip, loaded.vae)
    train = graph.node(
        "LoRA2Train",
        model=loaded.model,
        latents=data[0],
        positive=data[1],
        **(SETTINGS | settings),
    )
    return graph, train


def save(graph: Graph, train: Node, prefix: str, precision: str = "fp32", **more) -> Node:
    return graph.node("LoRA2Save", lora=train[0], prefix=prefix, precision=precision, **more)


def saved_file(host: ComfyHost, run: Run, node: Node) -> Path:
    """The file that a LoRA2Save node says it wrote."""
    text = run.outputs[node.id]["text"][0]
    return host.base / "models" / "loras" / text.removeprefix("saved ").rsplit(" (", 1)[0]


def tensors(host: ComfyHost, run: Run, node: Node) -> dict[str, torch.Tensor]:
    """What a LoRA2Save node wrote."""
    return load_file(saved_file(host, run, node))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two adapters are one to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def with_ours(name: str, **settings) -> Adapt:
    """For `sample`: a file of the loras folder through LoRA2Load."""

    def adapt(graph: Graph, loaded: checkpoints.Loaded) -> tuple[list, list]:
        node = graph.node(
            "LoRA2Load", model=loaded.model, clip=loaded.clip, lora_name=name,
            **({"strength_model": 1.0} | settings),
        )  # fmt: skip
        return node[0], node[1]

    return adapt


def with_theirs(*names: str, strengths: tuple[float, ...] = ()) -> Adapt:
    """For `sample`: files through the host's own loader, one after the other; strengths: 1 each."""

    def adapt(graph: Graph, loaded: checkpoints.Loaded) -> tuple[list, list]:
        model, clip = loaded.model, loaded.clip
        for name, strength in zip(names, strengths or [1.0] * len(names), strict=True):
            node = graph.node(
                "LoraLoader", model=model, clip=clip, lora_name=name, strength_model=strength,
                strength_clip=strength,
            )  # fmt: skip
            model, clip = node[0], node[1]
        return model, clip

    return adapt


def random_lora(
    host: ComfyHost, name: str, seed: int, ranks: tuple[int, ...], size: float = 0.02
) -> str:
    """A LoRA of the small KOALA's attention, ranks in turn, in the host's loras folder."""
    path = host.base / "models" / "loras" / f"{name}.safetensors"
    if path.exists():
        return path.name
    generator = torch.Generator().manual_seed(seed)
    state = LoraState()
    shapes = {k.removesuffix(".weight"): s for k, s in unet_shapes(KOALA_SMALL).items()}
    found = [(k, s) for k, s in shapes.items() if ".attn" in k and ".to_" in k and len(s) == 2]
    for index, (module, (out, into)) in enumerate(found):
        rank = ranks[index % len(ranks)]
        stem = kohya_name(module)
        decay = 0.8 ** torch.arange(rank)
        state[f"{stem}.lora_down.weight"] = torch.randn(rank, into, generator=generator)
        state[f"{stem}.lora_up.weight"] = size * decay * torch.randn(out, rank, generator=generator)
        state[f"{stem}.alpha"] = torch.tensor(float(rank))
    writing.write(state, path, precision="fp32")
    return path.name


def sample(
    host: ComfyHost,
    adapt: Adapt | None = None,
    checkpoint: str = "small_koala",
    size: int = 128,
    steps: int = 2,
) -> torch.Tensor:
    """Latents [1, 4, size/8, size/8] sampled with what `adapt` makes of the loaded model, anew at
    every call.
    """
    graph = Graph()
    loaded = checkpoints.load(host, graph, checkpoint)
    model, clip = (loaded.model, loaded.clip) if adapt is None else adapt(graph, loaded)
    prompt = graph.node("CLIPTextEncode", clip=clip, text="a photo of a sks dog")
    latent = graph.node("EmptyLatentImage", width=size, height=size, batch_size=1)
    sampler = graph.node(
        "KSampler",
        model=model,
        positive=prompt[0],
        negative=prompt[0],
        latent_image=latent[0],
        seed=1,
        steps=steps,
        cfg=1.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=1.0 - next(_fresh) * 1e-9,
    )
    stored = graph.node("SaveLatent", samples=sampler[0], filename_prefix="latents/sample")
    run = host.run(graph)
    return load_file(host.file(run.outputs[stored.id]["latents"][0]))["latent_tensor"]


def drawn_with(
    host: ComfyHost, lora: str, positive: str, negative: str | None = None, **more
) -> np.ndarray:
    """Pixels of what the host draws with a file of the loras folder, as LoRA2Preview does in tests.

    negative: None for zeros. more: further inputs of LoRA2Load.
    """
    graph = Graph()
    loaded = checkpoints.load(host, graph, "small_koala")
    adapted = graph.node(
        "LoRA2Load", model=loaded.model, clip=loaded.clip, lora_name=lora, strength_model=1.0,
        **more,
    )  # fmt: skip
    wanted = graph.node("CLIPTextEncode", clip=adapted[1], text=positive)
    if negative is None:
        unwanted = graph.node("ConditioningZeroOut", conditioning=wanted[0])
    else:
        unwanted = graph.node("CLIPTextEncode", clip=adapted[1], text=negative)
    latent = graph.node("EmptyLatentImage", width=128, height=96, batch_size=1)
    sampler = graph.node(
        "KSampler", model=adapted[0], positive=wanted[0], negative=unwanted[0],
        latent_image=latent[0], denoise=1.0, **PREVIEW,
    )  # fmt: skip
    decoded = graph.node("VAEDecode", samples=sampler[0], vae=loaded.vae)
    image = graph.node("PreviewImage", images=decoded[0])
    [shown] = host.run(graph).outputs[image.id]["images"]
    return np.asarray(host.image(shown), float)


def template(host: ComfyHost, name: str, **changed: dict) -> tuple[Graph, dict[str, str]]:
    """A shipped workflow in the server's format, and title or type → node id.

    changed: node type → inputs that differ. Widgets' values are told apart as the page does it.
    """
    stored = json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))
    sources = {link[0]: [str(link[1]), link[2]] for link in stored["links"]}
    graph, ids = Graph(), {}
    for node in stored["nodes"]:
        kind, number = node["type"], str(node["id"])
        if kind == "MarkdownNote":
            continue
        declared = host.object_info(kind)["input"]
        declared = declared.get("required", {}) | declared.get("optional", {})
        values, inputs = iter(node.get("widgets_values", [])), {}
        for slot in node["inputs"]:
            if slot["link"] is not None:
                inputs[slot["name"]] = sources[slot["link"]]
            elif "widget" in slot:
                inputs[slot["name"]] = next(values)
                if declared[slot["name"]][1].get("control_after_generate"):
                    next(values)  # whether the page changes it after a run
        assert next(values, None) is None, f"{kind} has more values than widgets"
        graph[number] = {"class_type": kind, "inputs": inputs | changed.get(kind, {})}
        ids[node.get("title", kind)] = number
    return graph, ids
