"""Operations of a training step that a GPU would be sent, and what each saving is worth.

python benchmarks/launches.py [--out benchmarks/results/NAME.json]

SDXL in its real shapes, 1024 px, bf16, every layer at rank 64, on tensors that have shapes alone
(lora2_core.memory_trace). Views are left out, since they compute nothing. Forward and backward
pass, without the optimiser. As on a CPU: autocast leaves norms in bf16 there, on a GPU it has them
hand fp32 on, so that it costs more there than is counted here.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import full_size
import memory
import train_step
from report import put

from lora2_core.backbones.diffusers_unet import DiffusersUNet
from lora2_core.config import TrainConfig
from lora2_core.diffusion.data import Batch
from lora2_core.diffusion.loss import prediction_loss
from lora2_core.room.trace import dry_step
from lora2_core.training.checkpointing import blocks_checkpointed

RANK = 63  # as learned ranks are: no round number
_QUESTIONS = ("prim::device", "aten::detach")


class Sent(TorchDispatchMode):
    """Counts what computes something."""

    def __init__(self):
        super().__init__()
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        returned = func._schema.returns
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in returned)
        if not view and func.name().partition(".")[0] not in _QUESTIONS:
            self.operations[func.name()] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        return self.operations.total()


def unet() -> DiffusersUNet:
    with FakeTensorMode():
        torch.set_default_dtype(torch.bfloat16)
        network = memory.unet("SDXL")
        torch.set_default_dtype(torch.float32)
    return DiffusersUNet(network)


def batch() -> Batch:
    example = train_step.dataset(memory.SIDE)[0]
    return Batch(example.latent, example.conditioning)


def ours(method: str) -> int:
    sent = Sent()
    config = TrainConfig(method=method)
    dry_step(unet(), batch(), config, [RANK] * memory.SDXL_LAYERS, sent)
    return sent.total


def peft() -> int:
    from peft import LoraConfig, inject_adapter_in_model

    denoiser, sent, one = unet(), Sent(), batch()
    config = LoraConfig(r=RANK, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    inject_adapter_in_model(config, denoiser.network, low_cpu_mem_usage=True)  # without memory
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in denoiser.network.modules():
            for name, weight in module._parameters.items():
                if weight is not None and weight.is_meta:
                    module._parameters[name] = nn.Parameter(torch.zeros(weight.shape))
        with blocks_checkpointed(denoiser.blocks, None, True), sent:
            t = torch.tensor([500])
            noisy, target = denoiser.corrupt(one.latents, torch.randn_like(one.latents), t)
            with torch.autocast("cpu", torch.bfloat16):
                predicted = denoiser.predict(noisy, t, one.conditioning)
            prediction_loss(predicted, target).backward()
    return sent.total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = {"lora2": ours("lora2"), "lora": ours("lora"), "peft": peft()}
    for saving, off in full_size.WITHOUT.items():
        with off():
            found[f"lora2 without: {saving}"] = ours("lora2")
    first, second, third = full_size.WITHOUT.values()
    with first(), second(), third():
        found["lora2 without: any of them"] = ours("lora2")
    report = {
        "torch": torch.__version__, "rank": RANK, "operations": found,
        "ratios": {name: round(found["lora2"] / count, 3) for name, count in found.items()},
    }  # fmt: skip
    put(report, options.out)


if __name__ == "__main__":
    main()
