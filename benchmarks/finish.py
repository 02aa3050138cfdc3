"""How long the cut by effect of a finished adapter of SDXL's size takes.

python benchmarks/finish.py [--rank 64] [--rounds 3] [--out FILE.json]

Random factors and moments of every attention projection of SDXL (560 components). The cut finds
all directions, chooses 99.9 % of the effect and turns the factors.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch
from rank_tools import layers
from report import put

from lora2_core.effect.finish import ordered
from lora2_core.effect.measure import Moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rank, factors, moments = options.rank, {}, []
    for name, (out, into) in layers(False).items():
        factors[name] = torch.randn(rank, into), torch.randn(out, rank)
        roots = (torch.randn(2 * rank, rank) * torch.rand(rank) for _ in range(2))
        moments.append(Moments(*(one.t() @ one for one in roots)))
    seconds = []
    for _ in range(options.rounds):
        start = time.perf_counter()
        found = ordered(factors, moments, 0.999)
        seconds.append(round(time.perf_counter() - start, 2))
    kept = sum(len(own) for own in found.effects.values()) / len(factors)
    report = {
        "seconds": seconds,
        "median": statistics.median(seconds),
        "components": len(factors),
        "rank": rank,
        "mean rank kept": round(kept, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
    }
    put(report, options.out)


if __name__ == "__main__":
    main()
