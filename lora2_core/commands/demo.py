"""The whole thing in two minutes."""

import argparse
from pathlib import Path

from .. import adapter_file, demo
from ..config import METHODS, TrainConfig
from ..packing import pack_result
from .progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--method", choices=METHODS, default="lora2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the adapter")


def run(options: argparse.Namespace) -> None:
    config = TrainConfig.preset(
        "small",
        method=options.method,
        steps=options.steps,
        seed=options.seed,
        learning_rate=1e-3,
        lambda_r=1e-6,  # a random network gives ν a far smaller gradient than a trained one
        dtype="fp32",
        gradient_checkpointing=False,
    )
    print("A network of SDXL's structure with random weights: its pictures would mean nothing.")
    result = demo.run(config, Progress())
    _print_ranks(result.ranks)
    path = adapter_file.write_new(pack_result(result), options.out, "lora2_demo", precision="fp16")
    print(f"saved {path} ({path.stat().st_size / 1e6:.2f} MB)")


def _print_ranks(ranks: dict[str, tuple[float | None, int]]) -> None:
    blocks: dict[str, list[int]] = {}
    for name, (_, rank) in ranks.items():
        blocks.setdefault(".".join(name.split(".")[:2]), []).append(rank)
    print(f"{'block':<18}{'layers':>7}{'mean rank':>11}{'lowest':>8}{'highest':>9}")
    for block, found in blocks.items():
        mean = sum(found) / len(found)
        print(f"{block:<18}{len(found):>7}{mean:>11.2f}{min(found):>8}{max(found):>9}")
