"""What training needs of memory, counted on full-size networks without memory, and checked on one.

python benchmarks/memory.py [--out benchmarks/results/NAME.json]

Counted (lora2_core.memory): SDXL and KOALA-700M in their real shapes, 1024 px, batch 1, LoRA² from
each preset's rank, with weights in bf16, or in fp8 that is cast where it is used, as ComfyUI does,
and with the weights of all blocks in main memory. Operations of a step are counted at the ranks
that a run ends with, against rank 512 throughout.
Checked: the count for a UNet that fits this machine, against the resident memory of real training
in a process of its own. No GPU is involved: what its allocator and kernels add is not counted.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train_step

from lora2_core.backbones.diffusers_unet import DiffusersUNet
from lora2_core.config import PRESETS, TrainConfig
from lora2_core.diffusion.data import Batch, batches
from lora2_core.room.need import memory_need
from lora2_core.room.plan import with_waiting
from lora2_core.room.trace import dry_step
from lora2_core.training.loop import Training

SIDE = 128  # latents of 1024 px
SDXL_LAYERS = 560
CHECKED = [(32, True), (32, False), (64, True)]  # latent side, checkpointing


def unet(name: str) -> UNet2DConditionModel:
    """SDXL or KOALA-700M, with weights that have shapes alone."""
    sdxl = name == "SDXL"
    down, cross_down = "DownBlock2D", "CrossAttnDownBlock2D"
    return UNet2DConditionModel(
        block_out_channels=(320, 640, 1280),
        layers_per_block=2 if sdxl else 1,
        down_block_types=(down, cross_down, cross_down),
        mid_block_type="UNetMidBlock2DCrossAttn" if sdxl else None,
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10 if sdxl else 5),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


class _CastLinear(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype), self.bias)


class _CastConv(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(
            x, self.weight.to(x.dtype), self.bias, self.stride, self.padding, self.dilation
        )


class InFp8(DiffusersUNet):
    """A network after in_fp8."""

    dtype = torch.bfloat16  # what its layers are given, and cast their weights to


def in_fp8(network: nn.Module) -> None:
    """Linear and convolution weights in fp8, cast as they are used."""
    for module in network.modules():
        kind = {nn.Linear: _CastLinear, nn.Conv2d: _CastConv}.get(type(module))
        if kind is not None:
            module.__class__ = kind
            weight = module.weight.detach().to(torch.float8_e4m3fn)
            module.weight = nn.Parameter(weight, requires_grad=False)


def counted(
    name: str, preset: str, checkpointing: bool = True, fp8: bool = False, offload: bool = False
) -> dict:
    with FakeTensorMode():
        torch.set_default_dtype(torch.bfloat16)
        network = unet(name)
        torch.set_default_dtype(torch.float32)
        if fp8:
            in_fp8(network.requires_grad_(False))
    config = TrainConfig.preset(preset, gradient_checkpointing=checkpointing)
    denoiser = InFp8(network) if fp8 else DiffusersUNet(network)
    layers = sum(".attn" in name and ".to_" in name for name, _ in network.named_parameters())
    layers -= sum(name.endswith("to_out.0.bias") for name, _ in network.named_parameters())
    need = memory_need(denoiser, train_step.dataset(SIDE), config, [config.r_init] * layers)
    if offload:
        need = with_waiting(need, denoiser.blocks)
    return {
        "network": name, "preset": preset, "rank": config.r_init, "layers": layers,
        "checkpointing": checkpointing, "weights_in": "fp8" if fp8 else "bf16",
        "waiting": round(need.waiting / 1e9, 2),
        "gigabytes": round(need.total / 1e9, 2),
        "weights": round(need.weights / 1e9, 2),
        "adapters": round(need.adapters / 1e9, 2),
        "step": round(need.step / 1e9, 2),
    }  # fmt: skip


def operations(rank: int) -> float:
    """Multiply-adds of forward and backward pass of SDXL, in 10¹², every layer at this rank."""
    with FakeTensorMode():
        torch.set_default_dtype(torch.bfloat16)
        network = unet("SDXL")
        torch.set_default_dtype(torch.float32)
    denoiser = DiffusersUNet(network)
    example = train_step.dataset(SIDE)[0]
    config = TrainConfig.preset("paper")
    counter = FlopCounterMode(display=False)
    batch = Batch(example.latent, example.conditioning)
    dry_step(denoiser, batch, config, [rank] * SDXL_LAYERS, counter)
    return counter.get_total_flops() / 2e12


def checked(side: int, checkpointing: bool) -> dict:
    """The count beside the resident memory, MB, that real training adds to the network."""
    config = TrainConfig(
        method="lora", r_init=64, steps=3, dtype="fp32", gradient_checkpointing=checkpointing
    )
    data = train_step.dataset(side)
    denoiser = DiffusersUNet(train_step.koala_small())
    need = memory_need(denoiser, data, config, [64] * 168)
    train_step.reset_peak()
    before = train_step.peak_memory()
    order = batches(data, batch_size=1, accumulation=1, seed=0)
    Training(denoiser, order, config).run()
    measured = (train_step.peak_memory() - before) * 2**20 / 1e6
    told = (need.adapters + need.step) / 1e6
    return {
        "side": side, "checkpointing": checkpointing, "counted": round(told),
        "resident": round(measured), "ratio": round(told / measured, 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.check:
        print(json.dumps(checked(options.check[0], bool(options.check[1]))))
        return
    report = {"machine": train_step.machine(), "checked": [], "counted": []}
    # freed memory goes back to the system at once, so that the resident size says what is held
    freeing = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    for side, checkpointing in CHECKED:
        command = [sys.executable, __file__, "--check", str(side), str(int(checkpointing))]
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env=dict(os.environ) | freeing
        )
        report["checked"].append(json.loads(done.stdout.splitlines()[-1]))
        print(report["checked"][-1], flush=True)
    cases = [{"name": n, "preset": p} for n in ("SDXL", "KOALA-700M") for p in PRESETS]
    sdxl = {"name": "SDXL", "preset": "balanced"}
    cases += [sdxl | {"checkpointing": False}, sdxl | {"fp8": True}]
    cases += [sdxl | {"preset": "small", "fp8": True}]
    cases += [sdxl | {"offload": True}, sdxl | {"preset": "small", "offload": True}]
    for case in cases:
        report["counted"].append(counted(**case))
        print(report["counted"][-1], flush=True)
    found = {rank: operations(rank) for rank in (4, 64, 512)}
    report["operations"] = {
        f"rank {rank} / rank 512": round(found[rank] / found[512], 3) for rank in (4, 64)
    }
    print(report["operations"], flush=True)
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
