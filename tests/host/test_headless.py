"""The host's model and the same file read without the host: one training run, one adapter."""

from dataclasses import replace

import torch
from host import checkpoints, graphs
from host.comfy_host import Graph

from lora2_core.backbones import single_file
from lora2_core.backbones.diffusers_unet import DiffusersUNet
from lora2_core.config import TrainConfig
from lora2_core.diffusion.data import Example, batches
from lora2_core.files import adapter_file
from lora2_core.files.header import read_header
from lora2_core.runs.packing import pack_result
from lora2_core.training.loop import train

SETTINGS = graphs.SETTINGS | {"steps": 4, "batch_size": 2, "targets": "attention+feed_forward"}


def stored_examples(host, folder):
    """What the host's SaveTrainingDataset wrote, as headless training takes it."""
    # the host's own format is a pickle; this one was written by the host that this test started
    data = torch.load(host.dataset(folder) / "shard_0000.pkl", weights_only=False)
    sizes = torch.tensor([[128.0, 128, 0, 0, 128, 128]])
    for latent, conditioning in zip(data["latents"], data["conditioning"], strict=True):
        [(context, more)] = conditioning
        told = {"context": context, "pooled": more["pooled_output"], "time_ids": sizes}
        scaled = latent["samples"] * 0.13025
        yield Example(scaled, {name: tensor.float() for name, tensor in told.items()})


def test_equal_batches_noise_and_seed_give_the_same_adapter(host):
    graph = Graph()
    loaded = checkpoints.load(host, graph, "small_koala")
    data = graphs.dataset(host, graph, loaded.clip, loaded.vae)
    graph.node(
        "SaveTrainingDataset", latents=data[0], conditioning=data[1],
        folder_name="equal", shard_size=1000,
    )  # fmt: skip
    trained = graph.node(
        "LoRA2Train", model=loaded.model, latents=data[0], positive=data[1], **SETTINGS
    )
    saved = graphs.save(graph, trained, "equal")
    run = host.run(graph)
    theirs = adapter_file.components(adapter_file.read(graphs.saved_file(host, run, saved)))

    file = host.base / "models" / "checkpoints" / "small_koala.safetensors"
    shapes = {name: tuple(info.shape) for name, info in read_header(file).tensors.items()}
    unet = single_file.read_unet(file, single_file.unet_config(shapes), torch.float32)
    names = {"method", "steps", "learning_rate", "seed", "batch_size", "targets", "lambda_r"}
    config = TrainConfig.preset("small", **{name: SETTINGS[name] for name in names})
    config = replace(config, dtype="fp32")
    order = batches(
        list(stored_examples(host, "equal")), batch_size=2, accumulation=1, seed=config.seed
    )
    result = train(DiffusersUNet(unet), order, config)
    ours = adapter_file.components(pack_result(result))

    assert ours.keys() == theirs.keys()
    assert {n: f.rank for n, f in ours.items()} == {n: f.rank for n, f in theirs.items()}
    for name, factors in ours.items():
        mine, other = factors.delta(), theirs[name].delta()
        assert mine.abs().max() > 0
        # Adam divides by the gradient's size: where that is near zero, rounding shows
        assert (mine - other).norm() < 0.02 * other.norm(), name
