"""Merging and compressing full-size SDXL adapters: ours beside a dense SVD, and its memory.

python benchmarks/rank_tools.py [--every 10] [--out FILE.json]

Adapters of random numbers in fp16, on every attention projection of SDXL (560 components); the one
that is compressed has the feed-forward layers too. The dense merge forms ΔW = w₁ΔW₁ + w₂ΔW₂ of each
component, takes its SVD (torch's default, with all of U and V) and clamps what is left at its 99th
percentile, the steps of kohya's merging script. It takes minutes, so that it is timed on every
10th component, and so are we for that ratio. Each measurement has a process of its own; memory is
what its peak adds to that of the imports, pages of the mapped files included.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch
from report import put
from unet_shapes import SDXL, unet_shapes

from lora2_core.files import adapter_file, writing
from lora2_core.files.adapter_file import LoraState
from lora2_core.files.module_names import kohya_name
from lora2_core.rank_tools import Cut, Ingredient, compress, merge, open_adapter

WEIGHTS = (0.8, 0.5)
RANK = 32
PAIRS = {"64 and 32": (64, 32), "128 and 128": (128, 128)}


def layers(feed_forward: bool) -> dict[str, tuple[int, int]]:
    found = {}
    for key, shape in unet_shapes(SDXL).items():
        name = key.removesuffix(".weight")
        attention = ".attn" in name and ".to_" in name
        if name != key and len(shape) == 2 and (attention or (feed_forward and ".ff.net" in name)):
            found[kohya_name(name)] = shape
    return found


def write_adapter(path: Path, rank: int, seed: int, feed_forward: bool = False) -> Path:
    """Directions of falling size, as trained adapters have them."""
    if path.exists():
        return path
    generator = torch.Generator().manual_seed(seed)
    state = LoraState()
    decay = torch.arange(1, rank + 1).float().rsqrt()
    for name, (out, into) in layers(feed_forward).items():
        down = torch.randn(rank, into, generator=generator) * 0.05
        up = torch.randn(out, rank, generator=generator) * decay * 0.05
        state[f"{name}.lora_down.weight"], state[f"{name}.lora_up.weight"] = down.half(), up.half()
        state[f"{name}.alpha"] = torch.tensor(float(rank))
    return writing.write(state, path, precision="fp16")


def subset(path: Path, every: int):
    """The adapter with every n-th component alone."""
    state = adapter_file.read(path)
    names = list(adapter_file.components(state))[::every]
    return LoraState({k: t for k, t in state.items() if k.rpartition(".lora_")[0] in names
                      or k.removesuffix(".alpha") in names})  # fmt: skip


def ours(paths: list[Path], every: int) -> float:
    states = [subset(path, every) if every > 1 else path for path in paths]
    ingredients = [
        Ingredient(open_adapter(state, "an input"), weight)
        for state, weight in zip(states, WEIGHTS, strict=True)
    ]
    started = time.perf_counter()
    merge(ingredients, Cut(rank=RANK), dtype=torch.float16)
    return time.perf_counter() - started


def dense(paths: list[Path], every: int) -> float:
    states = [adapter_file.components(subset(path, every)) for path in paths]
    started = time.perf_counter()
    for name, factors in states[0].items():
        delta = WEIGHTS[0] * factors.delta() + WEIGHTS[1] * states[1][name].delta()
        u, sigma, vt = torch.linalg.svd(delta)
        up, down = u[:, :RANK] * sigma[:RANK], vt[:RANK]
        limit = torch.quantile(torch.cat([up.flatten(), down.flatten()]), 0.99)
        _ = up.clamp(-limit, limit).half(), down.clamp(-limit, limit).half()
    return time.perf_counter() - started


def shrink(path: Path, megabytes: float, out: Path) -> float:
    started = time.perf_counter()
    outcome = compress(open_adapter(path), Cut(megabytes=megabytes), dtype=torch.float16)
    writing.write(outcome.state, out, precision="fp16")
    return time.perf_counter() - started


def _peak() -> int:
    """Bytes that the process held at most (Linux); getrusage would count its parent's too."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return 1024 * int(line.split()[1])


def _child(pipe, function, arguments) -> None:
    before = _peak()
    seconds = function(*arguments)
    pipe.send((seconds, _peak() - before))


def apart(function, *arguments) -> tuple[float, int]:
    """(seconds, bytes added at the peak) of a call in a process of its own."""
    context = get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    found = mine.recv()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = {"machine": f"{platform.machine()}, {os.cpu_count()} CPU cores", "pairs": {}}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for label, ranks in PAIRS.items():
            paths = [write_adapter(place / f"{seed}_{r}.safetensors", r, seed)
                     for seed, r in enumerate(ranks)]  # fmt: skip
            size = sum(path.stat().st_size for path in paths)
            fast, _ = apart(ours, paths, options.every)
            slow, _ = apart(dense, paths, options.every)
            whole, memory = apart(ours, paths, 1)
            found["pairs"][label] = {
                "dense / ours, seconds": round(slow / fast, 1),
                "memory / bytes of the inputs": round(memory / size, 2),
                "seconds, all components": round(whole, 1),
                "megabytes of the inputs": round(size / 1e6),
            }
            print(label, found["pairs"][label], flush=True)
        large = write_adapter(place / "large.safetensors", 128, 9, feed_forward=True)
        seconds, memory = apart(shrink, large, 100.0, place / "small.safetensors")
        found["compress to 100 MB"] = {
            "megabytes before": round(large.stat().st_size / 1e6),
            "megabytes after": round((place / "small.safetensors").stat().st_size / 1e6, 2),
            "seconds": round(seconds, 1),
            "memory / bytes of the input": round(memory / large.stat().st_size, 2),
        }
    put(found, options.out)


if __name__ == "__main__":
    main()
