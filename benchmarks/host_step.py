"""LoRA2Train beside the host's own TrainLoraNode: time of a step and memory, in the real host.

python benchmarks/host_step.py [--checkpoint small_koala] [--rounds 3] [--out FILE.json]

Needs a ComfyUI (see tests/host) and Linux. Each run has a server of its own, which first loads the
checkpoint and encodes five photographs at 128 px; memory is what the training adds on top of that.
The host's node adapts every layer with a weight and trains their biases too, LoRA2Train with its
default targets the attention projections alone; with `all_linear+conv` it adapts the same layers.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests"), str(ROOT)]

from host import checkpoints, graphs
from host.comfy_host import Graph, open_host
from report import put

STEPS, WARM_UP = 16, 4
# glibc else keeps freed tensors and the resident size says little; but every temporary then costs
# page faults, so time is taken without
_RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
VARIANTS = ("lora2", "lora2_all", "host")
HOST_SETTINGS = {  # of TrainLoraNode, beside its rank
    "batch_size": 1,
    "grad_accumulation_steps": 1,
    "steps": STEPS,
    "learning_rate": 1e-4,
    "optimizer": "AdamW",
    "loss_function": "MSE",
    "seed": 3,
    "training_dtype": "fp32",
    "lora_dtype": "fp32",
    "quantized_backward": False,
    "algorithm": "LoRA",
    "gradient_checkpointing": True,
    "checkpoint_depth": 1,
    "offloading": False,
    "existing_lora": "[None]",
    "bucket_mode": False,
    "bypass_mode": False,
}


def measure(variant: str, checkpoint: str, rank: int) -> dict:
    """Median seconds a step, MiB added at the peak, and the mean rank of LoRA²."""
    with open_host() as host:
        graph = Graph()
        loaded = checkpoints.load(host, graph, checkpoint)
        data = graphs.dataset(host, graph, loaded.clip, loaded.vae)
        seen = graph.node("PreviewAny", source=data[1])
        # sampling once puts the model where training finds it
        graphs.sample(host, checkpoint=checkpoint)
        host.run(graph)
        del graph[seen.id]
        train = _train_node(graph, variant, loaded, data, rank)
        shown = graph.node("PreviewAny", source=train[2])
        Path(f"/proc/{host.pid}/clear_refs").write_text("5")
        before = _status(host.pid, "VmRSS")
        stamps = []

        def on_event(kind, event):
            if kind == "progress" and str(event["node"]) == train.id:
                stamps.append((event["value"], time.perf_counter()))

        run = host.run(graph, timeout=1800, on_event=on_event)
        added = _status(host.pid, "VmHWM") - before
        version = host.version
        ranks = run.outputs[shown.id]["text"][0] if variant != "host" else None
    found = [
        (t1 - t0) / (v1 - v0)
        for (v0, t0), (v1, t1) in itertools.pairwise(stamps)
        if v0 >= WARM_UP and v1 > v0
    ]
    mean = json.loads(ranks)["totals"]["mean_rank"] if ranks else float(rank)
    return {
        "seconds": statistics.median(found),
        "memory": added,
        "mean_rank": mean,
        "host": version,
    }


def _train_node(graph, variant, loaded, data, rank):
    inputs = {"model": loaded.model, "latents": data[0], "positive": data[1]}
    if variant != "host":
        targets = "all_linear+conv" if variant == "lora2_all" else "attention"
        settings = graphs.SETTINGS | {"steps": STEPS, "targets": targets}
        return graph.node("LoRA2Train", **inputs, **settings)
    return graph.node("TrainLoraNode", **inputs, **HOST_SETTINGS | {"rank": rank})


def _status(pid: int, name: str) -> float:
    """A line of the process's status, MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="small_koala", choices=tuple(checkpoints.UNETS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found: dict[str, list[dict]] = {variant: [] for variant in VARIANTS}
    memory: dict[str, float] = {}
    rank = 0
    for round_ in range(options.rounds + 1):
        for variant in VARIANTS:
            for name, value in _RETURN_MEMORY.items():
                if round_ == 0:
                    os.environ[name] = value
                else:
                    os.environ.pop(name, None)
            figures = measure(variant, options.checkpoint, rank)
            rank = rank or max(1, round(figures["mean_rank"]))  # LoRA² comes first and sets it
            memory.setdefault(variant, figures["memory"])
            if round_ > 0:
                found[variant].append(figures | {"memory": memory[variant]})
                print(variant, found[variant][-1], flush=True)
    report = {
        "variants": {
            variant: {
                key: round(statistics.median(f[key] for f in rows), 4)
                for key in ("seconds", "memory", "mean_rank")
            }
            for variant, rows in found.items()
        },
        "ratios": {
            f"{variant}/host {key}": round(
                statistics.median(
                    a[key] / b[key] for a, b in zip(found[variant], found["host"], strict=True)
                ),
                3,
            )
            for variant in ("lora2", "lora2_all")
            for key in ("seconds", "memory")
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "comfyui": found["host"][0]["host"],
        "checkpoint": options.checkpoint,
    }
    put(report, options.out)


if __name__ == "__main__":
    main()
