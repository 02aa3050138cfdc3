"""A base in plain fp8 is trained as the numbers that it holds."""

import torch
from host import checkpoints, graphs
from safetensors.torch import load_file, save_file
from unet_shapes import PREFIX

FP8 = torch.float8_e4m3fn


def unets(host):
    """The small KOALA's UNet as it is, and as fp8 leaves it, in the host's folder."""
    checkpoint = host.base / "models" / "checkpoints" / checkpoints.place(host, "small_koala")
    weights = {k: v for k, v in load_file(checkpoint).items() if k.startswith(PREFIX)}
    folder = host.base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    rounded = {name: weight.to(FP8).half() for name, weight in weights.items()}
    save_file(weights, folder / "whole.safetensors")
    save_file(rounded, folder / "rounded.safetensors")


def trained(host, name, held_in):
    graph, train = graphs.training(host, steps=4)
    loader = graph.node("UNETLoader", unet_name=f"{name}.safetensors", weight_dtype=held_in)
    graph[train.id]["inputs"]["model"] = loader[0]
    node = graphs.save(graph, train, f"{name}_{held_in}")
    return load_file(graphs.saved_file(host, host.run(graph), node))


def test_an_fp8_base_is_trained_as_the_numbers_it_holds(host):
    unets(host)
    in_fp8 = trained(host, "whole", "fp8_e4m3fn")
    as_held = trained(host, "rounded", "default")
    otherwise = trained(host, "whole", "default")
    assert in_fp8.keys() == as_held.keys()

    def apart(one, other):
        differences = [(one[k] - other[k]).norm() for k in one if one[k].shape == other[k].shape]
        return float(torch.stack(differences).norm())

    assert all(in_fp8[k].shape == as_held[k].shape for k in in_fp8)
    assert apart(in_fp8, as_held) < 0.01 * apart(in_fp8, otherwise)
