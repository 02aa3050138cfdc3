"""Adapters of other libraries: as factors, and off the network again."""

import pytest
import torch
from tradeoff import external
from tradeoff.contestants import CONTESTANTS, rate
from tradeoff.lesson import denoiser, lesson
from tradeoff.tasks import Task

from lora2_core.diffusion.data import batches
from lora2_core.layers.applied import applied


@pytest.fixture
def examples(tiny, subjects):
    return lesson(Task("one", (subjects["mint mug"],)), 0).examples


def predicted(examples):
    batch = next(batches(examples, batch_size=2, accumulation=1, seed=0))[0]
    with torch.no_grad():
        return denoiser().predict(batch.latents, torch.tensor([100, 700]), batch.conditioning)


def fitted(name, examples, steps=4):
    contestant = CONTESTANTS[name]
    config = contestant.config(rate(contestant.guess), steps, 0)
    order = batches(examples, batch_size=1, accumulation=1, seed=0)
    return external.LIBRARIES[contestant.library](denoiser(), order, config)


def state(network):
    return (
        {name: id(module) for name, module in network.named_modules()},
        {name: id(parameter) for name, parameter in network.named_parameters()},
        {name: sorted(vars(module)) for name, module in network.named_modules()},
        [parameter.requires_grad for parameter in network.parameters()],
        [module.training for module in network.modules()],
    )


@pytest.mark.parametrize("name", ["lokr", "adalora"])
def test_factors_are_what_the_library_applies_and_the_network_is_as_it_was(
    name, examples, monkeypatch
):
    """Trained in name only, so that every number of the adapter is large."""
    seen = []

    def scattered(denoiser, order, config, trainable, penalty=None, after=None):
        with torch.no_grad():
            for parameter in trainable:
                parameter.copy_(0.2 * torch.randn(parameter.shape))
                if parameter.shape[-1] == 1:
                    parameter[:3] = 0  # AdaLoRA's directions that are out of the budget
        seen.append(predicted(examples))

    monkeypatch.setattr(external, "_fit", scattered)
    before, plain = state(denoiser().network), predicted(examples)
    factors, size = fitted(name, examples)
    assert state(denoiser().network) == before
    assert torch.equal(predicted(examples), plain)
    with applied(denoiser(), factors):
        found = predicted(examples)
    assert (seen[0] - plain).norm() > 0.05 * plain.norm()
    assert (found - seen[0]).norm() < 1e-4 * plain.norm()
    ranks = [len(down) for down, _ in factors.values()]
    if name == "lokr":
        assert min(ranks) > 100 and size == 120 * (4 * 4 + 32 * 32)
    else:
        assert set(ranks) == {9} and size == 120 * 9 * 256


def test_adalora_ends_at_its_budget(examples):
    factors, _ = fitted("adalora", examples, steps=20)
    target = external.ADALORA["target_r"]
    assert sum(len(down) for down, _ in factors.values()) <= 120 * target


@pytest.mark.parametrize("name", ["lokr", "adalora"])
def test_it_learns(name, examples):
    factors, _ = fitted(name, examples)
    assert max((up @ down).abs().max() for down, up in factors.values()) > 1e-6


def test_a_loss_that_is_not_finite_stops_it_and_the_network_is_as_it_was(examples, monkeypatch):
    before = state(denoiser().network)
    nothing = lambda *_: (torch.tensor(float("nan"), requires_grad=True), None)  # noqa: E731
    monkeypatch.setattr(external, "forward", nothing)
    for name in external.LIBRARIES:
        with pytest.raises(external.Diverged, match="nan at step 1 of 4"):
            fitted(name, examples)
        assert state(denoiser().network) == before
