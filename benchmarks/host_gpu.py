"""LoRA2Train at full size in the real host, on a GPU: time, memory, previews, and what it leaves.

python benchmarks/host_gpu.py [--checkpoint sdxl] [--pixels 1024] [--free 8] [--out FILE.json]

Needs a ComfyUI (see tests/host), started with COMFYUI_ARGS (by default none, so that it finds the
GPU), and nvidia-smi. Random weights in fp16. With `--free` another process holds all of the GPU but
so many gigabytes from before the server starts. In one server: a picture, LoRA2Train without and
with previews, in fp16, and from the preset small, the host's TrainLoraNode (rank 16, every layer),
and the picture once more.
"""

import argparse
import ast
import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests"), str(ROOT), str(ROOT / "benchmarks")]
os.environ.setdefault("COMFYUI_ARGS", "")

import host_step
import torch
from host import checkpoints, graphs
from host.comfy_host import ComfyHost, Graph, HostError, NodeFailed, open_host
from unet_shapes import SDXL

checkpoints.UNETS["sdxl"] = SDXL
WARM_UP = 4
_HOG = """
import sys, time, torch
free, _ = torch.cuda.mem_get_info()
held = torch.empty(free - int(float(sys.argv[1]) * 1e9), dtype=torch.uint8, device="cuda")
print("held", flush=True)
time.sleep(3600)
"""


@contextmanager
def only(gigabytes: float | None) -> Iterator[None]:
    """All of the GPU but so much is held by another process within the block."""
    if gigabytes is None:
        yield
        return
    command = [sys.executable, "-c", _HOG, str(gigabytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as hog:
        try:
            if "held" not in hog.stdout.readline():
                raise HostError("the GPU's memory could not be held")
            yield
        finally:
            hog.kill()


def used() -> float:
    """Gigabytes of the GPU in use, by whomever."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        return int(subprocess.check_output(query, text=True).split()[0]) * 2**20 / 1e9
    except FileNotFoundError:  # a rehearsal without a GPU
        return 0.0


class Peak:
    """The most that is in use within the block, looked at ten times a second."""

    def __enter__(self) -> "Peak":
        self.gigabytes, self._done = used(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            self.gigabytes = max(self.gigabytes, used())

    def __exit__(self, *_) -> None:
        self._done.set()
        self._thread.join()


def picture(host: ComfyHost, options: argparse.Namespace) -> torch.Tensor:
    """Latents of four steps from one seed, made anew."""
    graphs.forget(host)
    return graphs.sample(host, checkpoint=options.checkpoint, size=options.pixels, steps=4)


def trained(host: ComfyHost, kind: str, options: argparse.Namespace, **settings) -> dict:
    """Seconds of a step, peak of the GPU, and losses of one training. kind: a node's type."""
    graph = Graph()
    loaded = checkpoints.load(host, graph, options.checkpoint)
    data = graphs.dataset(host, graph, loaded.clip, loaded.vae, size=options.pixels)
    previewed = settings.pop("previewed", False)
    inputs = {"model": loaded.model, "latents": data[0], "positive": data[1]}
    if kind == "LoRA2Train":
        own = {
            "preset": "balanced", "steps": options.steps, "seed": 3, "batch_size": 1,
            "method": "lora2", "learning_rate": 1e-4, "targets": "attention",
        }  # fmt: skip
        train = graph.node("LoRA2Train", **inputs, **(own | settings))
        if previewed:
            prompt = graph.node("CLIPTextEncode", clip=loaded.clip, text="a sks dog at the sea")
            preview = graph.node(
                "LoRA2Preview", vae=loaded.vae, positive=prompt[0], every=options.steps // 2,
                seed=9, steps=4, cfg=3.0, sampler_name="euler", scheduler="normal",
                width=options.pixels, height=options.pixels,
            )  # fmt: skip
            graph[train.id]["inputs"]["preview"] = preview[0]
    else:
        train = graph.node(
            "TrainLoraNode",
            **inputs,
            **(host_step.HOST_SETTINGS | {"steps": options.steps} | settings),
        )
    losses = graph.node("PreviewAny", source=train[1])
    stamps = []

    def on_event(name, event):
        if name == "progress" and str(event["node"]) == train.id:
            stamps.append((event["value"], time.perf_counter()))

    began = time.perf_counter()
    with Peak() as peak:
        run = host.run(graph, timeout=300, on_event=on_event)
    steps = [
        (t1 - t0) / (v1 - v0)
        for (v0, t0), (v1, t1) in itertools.pairwise(stamps)
        if v0 >= WARM_UP and v1 > v0
    ]
    told = run.outputs[losses.id]["text"][0]
    said = [line for line in run.log.splitlines() if "LoRA²" in line or "loaded" in line]
    return {
        "seconds": round(statistics.median(steps), 4) if steps else None,
        "peak_gb": round(peak.gigabytes, 2),
        "whole_seconds": round(time.perf_counter() - began, 1),
        "losses": _losses(told),
        "log": said[-12:],
    }


def _losses(told: str) -> list[float]:
    try:
        return json.loads(told)["loss"]
    except ValueError:
        return ast.literal_eval(told)["loss"]


def attempt(report: dict, name: str, function, *args, **kwargs) -> None:
    """report[name], or why there is none; one failure must not cost the other figures."""
    try:
        report[name] = function(*args, **kwargs)
    except NodeFailed as error:
        report[name] = {"failed": error.run.error["exception_message"][:600]}
        if (error.run.error.get("traceback") or [])[-3:]:
            report[name]["where"] = error.run.error["traceback"][-3:]
    except Exception as error:
        report[name] = {"failed": f"{type(error).__name__}: {error}"[-1500:]}
    print(name, json.dumps({k: v for k, v in report[name].items() if k != "losses"}), flush=True)


def _keep(report: dict, out: Path | None) -> None:
    if out:
        out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="sdxl")
    parser.add_argument("--pixels", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--free", type=float, help="gigabytes of the GPU that are left to the host")
    parser.add_argument("--only", nargs="+", help="names of the parts to run")
    parser.add_argument("--models", type=Path, help="folder that keeps the checkpoints")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    parts = {
        "lora2": ("LoRA2Train", {}),
        "previews": ("LoRA2Train", {"previewed": True}),
        "fp16": ("LoRA2Train", {"training_dtype": "fp16"}),
        "small": ("LoRA2Train", {"preset": "small"}),
        "host": ("TrainLoraNode", {"rank": 16, "training_dtype": "bf16"}),
    }
    report: dict = {"checkpoint": options.checkpoint, "pixels": options.pixels,
                    "free_gb": options.free, "arguments": os.environ["COMFYUI_ARGS"]}  # fmt: skip
    with only(options.free):
        idle = used()
        with open_host() as host:
            if options.models:
                folder = host.base / "models" / "checkpoints"
                for file in options.models.iterdir():
                    (folder / file.name).symlink_to(file)
            report |= {"comfyui": host.version, "held_by_others_gb": round(idle, 2)}
            device = host.stats["devices"][0]
            report["device"] = device["name"]
            before = picture(host, options)
            report["dynamic_vram"] = "DynamicVRAM support detected" in host.log()
            for name, (kind, settings) in parts.items():
                if options.only is None or name in options.only:
                    attempt(report, name, trained, host, kind, options, **settings)
                    _keep(report, options.out)
            after = picture(host, options)
            report["picture_unchanged"] = torch.equal(before, after)
            report["log_errors"] = [
                line for line in host.log().splitlines() if "rror" in line or "OOM" in line
            ][-15:]
    print(json.dumps({k: v for k, v in report.items() if not isinstance(v, dict)}), flush=True)
    _keep(report, options.out)


if __name__ == "__main__":
    main()
