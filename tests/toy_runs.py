"""Short training runs on the toy denoiser, and how to compare them."""

import torch
import toy

from lora2_core.config import TrainConfig
from lora2_core.diffusion.data import Example, batches
from lora2_core.training.loop import train

BASE = TrainConfig(
    steps=8,
    learning_rate=3e-3,
    r_init=4,
    r_max=12,
    r_target=2,
    rank_rate=8 * 0.25,
    rank_hold=0.0,
    rank_freeze=0.0,
    dtype="fp32",
    entropy_queries=5,
    effect_share=1.0,
    importance="unit_energy",
    start="even",
    lambda_e=1e-4,
    lr_scheduler="constant",
)


def data(seed=0, batch_size=1, accumulation=1, count=6, **more):
    generator = torch.Generator().manual_seed(11)
    examples = [
        Example(
            torch.randn(1, 4, 4, 4, generator=generator),
            {"context": torch.randn(1, 7, 12, generator=generator)},
            {"context": torch.zeros(1, 7, 12)},
        )
        for _ in range(count)
    ]
    return batches(examples, batch_size=batch_size, accumulation=accumulation, seed=seed, **more)


def run(config=BASE, denoiser=None, on_step=None, ranks=None, **settings):
    settings = {"seed": config.seed} | settings
    return train(denoiser or toy.ToyDenoiser(), data(**settings), config, on_step, ranks)


def same_bits(one, other):
    return one.ranks == other.ranks and all(
        torch.equal(x, y)
        for name in one.factors
        for x, y in zip(one.factors[name], other.factors[name], strict=True)
    )


class Stop(BaseException):
    """As a host's interrupt: no Exception."""


def stop_at(step, error):
    def on_step(info):
        if info.step == step:
            raise error

    return on_step
