"""Λ of one norm and a price of rows: ranks follow what is to be learned, not where they start."""

from statistics import fmean

import torch
from torch import nn

from lora2_core.config import TrainConfig
from lora2_core.diffusion.data import Example, batches
from lora2_core.training.loop import train

WIDTH, TOKENS, NOISE, SIZE = 48, 8, 0.3, 0.5
NEEDED = (1, 2, 4, 8)  # ranks of the updates to be found, two layers each


class Regression:
    """Linear layers side by side; each is to learn SIZE·UVᵀ of a known rank from noisy pairs."""

    dtype = torch.float32
    timesteps = 1
    device = torch.device("cpu")

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.network, self.blocks = nn.Module(), []
        self.layers, self.updates = [], []
        self._generator = torch.Generator().manual_seed(1)
        for index, rank in enumerate(NEEDED * 2):
            layer = nn.Linear(WIDTH, WIDTH, bias=False).requires_grad_(False)
            layer.weight.zero_()
            block = nn.Module()
            block.attn1 = nn.Module()
            block.attn1.add_module("to_q", layer)
            self.network.add_module(f"block{index}", block)
            u, v = (
                torch.linalg.qr(torch.randn(WIDTH, rank, generator=generator))[0] for _ in range(2)
            )
            self.layers.append(layer)
            self.updates.append(SIZE * u @ v.t())

    def corrupt(self, latents, noise, t):
        shape = TOKENS, len(self.layers), WIDTH
        x = torch.randn(shape, generator=self._generator)
        y = torch.stack([x[:, i] @ update.t() for i, update in enumerate(self.updates)], 1)
        return x, y + NOISE * torch.randn(shape, generator=self._generator)

    def predict(self, noisy, t, conditioning):
        return torch.stack([layer(noisy[:, i]) for i, layer in enumerate(self.layers)], 1)

    def module_name(self, name):
        return name


def learned(**settings):
    """(problem, result, mean rank found for each of NEEDED)."""
    config = TrainConfig(**{
        "start": "even", "lr_scheduler": "constant",
        "importance": "unit_energy", "init": "fan_in", "rank_term": "nu", "rank_rate": 10.0,
        "learning_rate": 1e-2, "rank_hold": 0.1, "r_init": 16, "r_max": 32, "steps": 200,
        "lambda_e": 0.0, "dtype": "fp32", "gradient_checkpointing": False, "effect_share": 1.0,
    } | settings)  # fmt: skip
    one = Example(torch.ones(1, 1, 1, 1), {"context": torch.ones(1, 1)})
    problem = Regression()
    order = batches([one], batch_size=1, accumulation=1, seed=0)
    result = train(problem, order, config)
    ranks = [rank for _, rank in result.ranks.values()]
    return problem, result, [fmean(ranks[i :: len(NEEDED)]) for i in range(len(NEEDED))]


def test_ranks_follow_the_rank_of_what_is_to_be_learned():
    problem, result, found = learned()
    assert found == sorted(found) and found[0] < 5 and found[-1] > 4 * found[0]
    for (down, up), update in zip(result.factors.values(), problem.updates, strict=True):
        assert (up @ down - update).norm() < 0.5 * update.norm()


def test_as_printed_the_same_run_hardly_tells_the_layers_apart():
    """ν is the gain of the update too, and every layer ends near r_max."""
    _, _, found = learned(importance="printed")
    assert min(found) > 24


def test_with_a_price_of_rows_the_start_matters_little():
    starts = {
        start: learned(rank_term="rows", rank_rate=30.0, lambda_r=1e-3, r_init=start)[2]
        for start in (2, 8, 32)
    }
    ends = [found[-1] for found in starts.values()]
    assert max(ends) < 2.5 * min(ends) and min(ends) > 6
    for found in starts.values():
        assert found[-1] > 2 * found[0]


def test_with_the_printed_term_the_start_decides():
    """One more row is the cheaper the more there are: it stays many, or goes to the target."""
    low, high = (learned(rank_term="nu", lambda_r=1e-3, r_init=start)[2][-1] for start in (2, 32))
    assert low == 1 and high > 15
