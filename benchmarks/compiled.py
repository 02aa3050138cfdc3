"""What torch.compile does for a training step: its time, and what compiling takes while ranks move.

python benchmarks/compiled.py [--steps 24] [--out benchmarks/results/NAME.json]

The UNet of train_step.py. Compiled is what the network spends its time in, the forward pass of its
transformer and residual blocks with the adapters on them, so that checkpointing and the entropy
stay as they are. Each variant runs in a process of its own. Ranks move for the first part of a run,
and stay as they are for the last ten steps, whose median is the time of a step.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import train_step
from torch._dynamo.utils import counters

from lora2_core.backbones.diffusers_unet import DiffusersUNet
from lora2_core.config import TrainConfig
from lora2_core.diffusion.data import batches
from lora2_core.training.loop import train

STILL = 10  # steps at the end
VARIANTS = ("eager", "compiled", "compiled_dynamic")


def measure(variant: str, steps: int) -> dict:
    """Of one variant, in this process."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    denoiser = DiffusersUNet(train_step.koala_small().to(device))
    if variant != "eager":
        # one a block, as many as there are, would otherwise be given up after eight
        torch._dynamo.config.cache_size_limit = 10_000
        torch._dynamo.config.accumulated_cache_size_limit = 100_000
        dynamic = True if variant == "compiled_dynamic" else None
        for kind in {type(block) for block in denoiser.blocks}:
            kind.forward = torch.compile(kind.forward, dynamic=dynamic)
    stamps, changes = [time.perf_counter()], set()

    def on_step(info):
        if device == "cuda":
            torch.cuda.synchronize()
        stamps.append(time.perf_counter())
        changes.add(info.ranks)

    config = TrainConfig(
        steps=steps, r_init=64, r_max=128, importance="unit_energy", start="even", rank_rate=4.0,
        rank_hold=0.0, rank_freeze=STILL / steps,
    )  # fmt: skip
    data = train_step.dataset(16)
    train(denoiser, batches(data, batch_size=1, accumulation=1, seed=0), config, on_step)
    times = [b - a for a, b in itertools.pairwise(stamps)]
    return {
        "step": round(statistics.median(times[-STILL:]), 4),
        "first_step": round(times[0], 1),
        "moving": round(sum(times[1:-STILL]), 1),
        "sets_of_ranks": len(changes),
        "graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": sum(counters["graph_break"].values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options.variant, options.steps)))
        return
    report: dict = {"machine": train_step.machine(), "torch": torch.__version__, "variants": {}}
    for variant in VARIANTS:
        command = [sys.executable, __file__, "--variant", variant, "--steps", str(options.steps)]
        env = dict(os.environ) | {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}  # of earlier runs
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
        report["variants"][variant] = json.loads(done.stdout.splitlines()[-1])
        print(variant, report["variants"][variant], flush=True)
    report["ratios"] = {
        f"{variant}/eager": round(
            report["variants"][variant]["step"] / report["variants"]["eager"]["step"], 3
        )
        for variant in VARIANTS[1:]
    }
    print(report["ratios"])
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
