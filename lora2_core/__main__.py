"""Command line: python -m lora2_core demo."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from . import adapter_file, demo
from .config import METHODS, TrainConfig
from .errors import LoRA2Error


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; 0 on success, 2 for an error that the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m lora2_core", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("demo", help="train on a tiny random network and save the file")
    command.add_argument("--steps", type=int, default=60)
    command.add_argument("--method", choices=METHODS, default="lora2")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--out", type=Path, default=Path("out"), help="folder for the adapter")
    options = parser.parse_args(arguments)
    try:
        _demo(options)
    except LoRA2Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _demo(options: argparse.Namespace) -> None:
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

    def on_step(info):
        if info.step % 10 == 0 or info.step == 1:
            print(
                f"step {info.step:4d}/{info.steps}  loss {info.loss:.4f}"
                f"  mean rank {info.mean_rank:.2f}"
            )

    result = demo.run(config, on_step)
    _print_ranks(result.ranks)
    metadata = adapter_file.training_metadata(
        method=config.method, settings=asdict(config), ranks=result.ranks, steps=result.steps
    )
    state = adapter_file.pack(result.factors, metadata=metadata)
    path = adapter_file.write_new(state, options.out, "lora2_demo", precision="fp16")
    print(f"saved {path} ({path.stat().st_size / 2**20:.2f} MB)")


def _print_ranks(ranks: dict[str, tuple[float | None, int]]) -> None:
    blocks: dict[str, list[int]] = {}
    for name, (_, rank) in ranks.items():
        blocks.setdefault(".".join(name.split(".")[:2]), []).append(rank)
    print(f"{'block':<18}{'layers':>7}{'mean rank':>11}{'lowest':>8}{'highest':>9}")
    for block, found in blocks.items():
        mean = sum(found) / len(found)
        print(f"{block:<18}{len(found):>7}{mean:>11.2f}{min(found):>8}{max(found):>9}")


if __name__ == "__main__":
    sys.exit(main())
