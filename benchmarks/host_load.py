"""LoRA2Load beside the host's own LoraLoader, in the real host: seconds to load a large file.

python benchmarks/host_load.py [--rounds 5] [--out FILE.json]

The file holds every attention projection of the small KOALA at rank 128. Each load has a name of
its own for the file, because the host's loader keeps what it has read; the loaders take turns.
"""

import argparse
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

LOADERS = {"LoRA2Load": {}, "LoraLoader": {"strength_clip": 1.0}}


def seconds(host, loader: str, name: str) -> float:
    graph = Graph()
    model, clip, _ = checkpoints.load(host, graph, "small_koala")
    node = graph.node(
        loader, model=model, clip=clip, lora_name=name, strength_model=1.0, **LOADERS[loader]
    )
    graph.node("PreviewAny", source=node[0])
    times = {}

    def note(kind, data):
        if kind == "executing":
            times[data.get("node")] = time.perf_counter()

    host.run(graph, on_event=note)
    order = sorted(times.values())
    return order[order.index(times[node.id]) + 1] - times[node.id]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = {loader: [] for loader in LOADERS}
    with open_host() as host:
        source = graphs.random_lora(host, "source", 1, (128,))
        folder = host.base / "models" / "loras"
        for turn in range(-1, options.rounds):  # the first warms the host up
            for loader in LOADERS:
                name = f"{loader}_{turn}.safetensors"
                (folder / name).hardlink_to(folder / source)
                taken = seconds(host, loader, name)
                if turn >= 0:
                    found[loader].append(round(taken, 4))
        size = (folder / source).stat().st_size
        version = host.version
    medians = {loader: statistics.median(times) for loader, times in found.items()}
    result = {
        "seconds": found,
        "LoRA2Load / LoraLoader": round(medians["LoRA2Load"] / medians["LoraLoader"], 3),
        "megabytes": round(size / 1e6),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "comfyui": version,
    }
    put(result, options.out)


if __name__ == "__main__":
    main()
