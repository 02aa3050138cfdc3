"""Where the time of a step goes that learns ν, on the UNet of train_step.py.

python benchmarks/step_parts.py [--size 16] [--steps 20] [--out benchmarks/results/NAME.json]

Shares of the whole, by a clock around each part; ranks move in every step.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train_step
from report import put

from lora2_core.backbones.diffusers_unet import DiffusersUNet
from lora2_core.config import TrainConfig
from lora2_core.diffusion.data import batches
from lora2_core.training import loop

PARTS = {  # name → what is timed: functions of training.loop, methods of the rank method
    "forward": (loop, "forward"),
    "backward": (torch.Tensor, "backward"),
    "clipping": (loop, "_gather_gradients"),
    "optimiser": (loop, "_update"),
}
RANKS = ("set_scales", "penalty", "before_step", "after_step")


def timed(owner: object, name: str, part: str, spent: dict[str, float]) -> None:
    """Adds the seconds of every call of owner.name to spent[part]."""
    function: Callable = getattr(owner, name)

    def wrapper(*args, **kwargs):
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[part] += time.perf_counter() - began

    setattr(owner, name, wrapper)


def shares(size: int, steps: int) -> dict[str, float]:
    denoiser = DiffusersUNet(train_step.koala_small())
    config = TrainConfig(
        steps=steps, r_init=9, r_max=32, dtype="fp32", importance="unit_energy", start="even",
        lambda_e=1e-4, rank_hold=0.0, rank_freeze=0.0, rank_rate=2.0,
    )  # fmt: skip
    order = batches(train_step.dataset(size), batch_size=1, accumulation=1, seed=0)
    training = loop.Training(denoiser, order, config)
    spent: dict[str, float] = defaultdict(float)
    for part, (owner, name) in PARTS.items():
        timed(owner, name, part, spent)
    for name in RANKS:
        timed(training._method, name, "ranks", spent)
    seen = set()
    began = time.perf_counter()
    training.run(lambda info: seen.add(info.ranks))
    whole = time.perf_counter() - began
    assert len(seen) > steps // 2, "the ranks stood still"
    # the rank term's backward pass counts as backward
    return {part: round(seconds / whole, 4) for part, seconds in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=16, help="latent side; 128 is 1024 px")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report = {
        "machine": train_step.machine(), "size": options.size,
        "shares": shares(options.size, options.steps),
    }  # fmt: skip
    put(report, options.out)


if __name__ == "__main__":
    main()
