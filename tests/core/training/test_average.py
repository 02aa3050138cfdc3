"""The moving average of an adapter, against its definition step by step."""

from dataclasses import replace
from itertools import pairwise

import pytest
import reference
import torch
import toy
from torch import nn
from toy_runs import BASE, data

from lora2_core.layers.adapter import Adapter
from lora2_core.optimizers.adamw import RowAdamW
from lora2_core.training.average import AdapterAverage
from lora2_core.training.loop import Training


def weights(count, decay):
    """Of each step in an average over `count` steps; they add up to 1."""
    decays = [min(decay, (1 + t) / (10 + t)) for t in range(count)]
    found = []
    for step in range(count):
        weight = 1 - decays[step]
        for later in decays[step + 1 :]:
            weight *= later
        found.append(weight)
    return [weight / sum(found) for weight in found]


class Watched(Training):
    """Keeps the effective rows of the first adapter after every step, and how old they are."""

    def __init__(self, config):
        super().__init__(toy.ToyDenoiser(), data(seed=config.seed, batch_size=2), config)
        self.seen = []

    def note(self, info):
        adapter = self._adapters[0]
        a = adapter.a.active.detach().double()
        nu = self._method.nus()[0]
        if nu is not None:
            scale = reference.IMPORTANCES[self.config.importance]
            a = torch.tensor([[scale(x, nu)] for x in range(adapter.rank)]).double() * a
        b = adapter.b.active.detach().double().clone()
        self.seen.append((a.clone(), b, self._optimizer.ages(0)[: adapter.rank]))


def naive_rows(seen, decay, diluted):
    """Row by row from the list of all steps: since it was last new, as far as it was active."""
    share = weights(len(seen), decay)
    a_rows, b_rows = [], []
    for row in range(len(seen[-1][0])):
        new = [step for step, (_, _, ages) in enumerate(seen) if ages[row : row + 1] == [0]]
        born = max(new, default=0)
        steps = [s for s in range(born, len(seen)) if len(seen[s][0]) > row]
        active = sum(share[s] for s in steps)
        whole = 1.0 if diluted else active
        a_rows.append(sum(share[s] * seen[s][0][row] for s in steps) / whole)
        b_rows.append(sum(share[s] * seen[s][1][row] for s in steps) / active)
    return torch.stack(a_rows), torch.stack(b_rows)


RUNS = {
    "grow": replace(BASE, steps=14, r_init=2, r_target=10, lambda_r=1.0),
    "shrink": replace(BASE, steps=14, r_init=12, lambda_r=1.0, shrink_patience=2),
    "both": replace(BASE, steps=80, r_init=6, rank_rate=40.0, r_target=4),
    "lora": replace(BASE, steps=14, method="lora"),
}


@pytest.mark.parametrize("name", RUNS)
def test_equals_the_sum_over_all_steps_row_by_row(name):
    config = replace(RUNS[name], ema_decay=0.8)
    training = Watched(config)
    result = training.run(training.note)
    ranks = [len(a) for a, _, _ in training.seen]
    moves = {b - a for a, b in pairwise(ranks)}
    assert {"grow": max(moves) > 0, "shrink": min(moves) < 0, "lora": moves == {0}}.get(
        name, max(moves) > 0 > min(moves)
    )
    down, up = result.factors["toy.blocks.0.attn1.to_k"]
    a, b = naive_rows(training.seen, 0.8, diluted=True)
    assert down.shape[0] == ranks[-1]
    torch.testing.assert_close(down.double(), a, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(up.double(), b.t(), rtol=1e-4, atol=1e-6)


def driven(steps, decay, seed=0):
    """(ΔW of the average, ΔW after every step) of an adapter whose B stays as it is, over ranks
    that fall and rise again; the last is the highest of all.
    """
    torch.manual_seed(seed)
    adapter = Adapter("layer", nn.Linear(6, 5, bias=False), torch.device("cpu"))
    adapter.set_rank(3, torch.randn(3, 6), torch.randn(3, 5))
    optimizer = RowAdamW(
        [adapter], None, learning_rate=0.1, rho_learning_rate=0.0, weight_decay=0.0
    )
    average = AdapterAverage([adapter], decay)
    seen = []
    for rank in steps:
        optimizer.before_change([0])
        count = max(rank - adapter.filled, 0)
        adapter.set_rank(rank, torch.randn(count, 6), torch.randn(count, 5))
        optimizer.follow([0])
        adapter.a.active.grad = torch.randn(rank, 6)
        optimizer.share_gradients()
        optimizer.adamw.step()
        optimizer.applied()
        optimizer.zero_grad()
        adapter.scale = torch.rand(rank)
        average.update(optimizer)
        seen.append((adapter.b.active.t() @ adapter.scaled_a()).detach())
    [(a, b)] = average.rows()
    return b.t() @ a, seen


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_where_one_side_stands_still_it_is_the_average_of_the_updates_themselves(decay):
    """Rows that were not there count as zeros, once and not squared."""
    found, seen = driven([3, 3, 1, 1, 2, 3, 5, 5, 1, 1, 5, 6, 6], decay)
    wanted = sum(w * one for w, one in zip(weights(len(seen), decay), seen, strict=True))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert (seen[-1] - wanted).norm() > 0.1 * wanted.norm()


def test_an_average_without_memory_is_the_adapter():
    config = replace(BASE, steps=14, r_init=6, lambda_r=3e-3)
    plain, averaged = (Watched(replace(config, ema_decay=d)).run() for d in (0.0, 1e-9))
    assert plain.losses == averaged.losses and plain.ranks == averaged.ranks
    for name, (down, up) in plain.factors.items():
        torch.testing.assert_close(averaged.factors[name][0], down)
        torch.testing.assert_close(averaged.factors[name][1], up)


def test_it_changes_what_is_saved_and_nothing_of_the_training():
    plain, averaged = (Watched(replace(BASE, ema_decay=d)).run() for d in (0.0, 0.9))
    assert plain.losses == averaged.losses and plain.ranks == averaged.ranks
    assert all(
        down.shape == plain.factors[name][0].shape and not torch.equal(up, plain.factors[name][1])
        for name, (down, up) in averaged.factors.items()
    )


def test_before_the_first_step_it_is_the_start():
    training = Watched(replace(BASE, ema_decay=0.9))
    training._method.set_scales(0)
    assert all((up == 0).all() for _, up in training.result().factors.values())


def test_ac_lora_averages_since_the_last_restart():
    """What came before an exchange of the rows is gone, and is no zero either."""
    config = replace(BASE, steps=20, method="ac_lora", ac_period=0.2, ema_decay=0.9)
    training = Watched(config)
    result = training.run(training.note)
    restarts = [step for step, (_, _, ages) in enumerate(training.seen, 1) if 0 in ages]
    assert restarts == [4, 8, 12, 16]
    a, b = naive_rows(training.seen, 0.9, diluted=False)
    u, sigma, vt = torch.linalg.svd(b.t() @ a)
    down, up = result.factors["toy.blocks.0.attn1.to_k"]
    rank = down.shape[0]
    wanted = u[:, :rank] * sigma[:rank] @ vt[:rank]
    torch.testing.assert_close((up @ down).double(), wanted, rtol=1e-3, atol=1e-5)
