"""The learning rate over a run, against its formulas."""

import math

import pytest
import torch
from diffusers.optimization import get_scheduler
from toy_runs import BASE, run

from lora2_core.config import TrainConfig
from lora2_core.optimizers.adamw import RowAdamW
from lora2_core.training.schedule import rate_factor

STEPS, WARM = 40, 8


def factors(**settings):
    factor = rate_factor(TrainConfig(steps=STEPS, learning_rate=1e-3, **settings))
    return [factor(step) for step in range(STEPS)]


def test_by_default_the_rate_falls_along_a_cosine():
    assert factors() == factors(lr_scheduler="cosine")
    assert factors()[0] == 1 and factors()[-1] < 0.01


SHAPES = {
    "constant": ({}, lambda p: 1.0),
    "linear": ({}, lambda p: 1 - p),
    "cosine": ({}, lambda p: (1 + math.cos(math.pi * p)) / 2),
    "cosine_with_restarts": (
        {"lr_cycles": 4},
        lambda p: (1 + math.cos(math.pi * (4 * p - math.floor(4 * p)))) / 2,
    ),
    "polynomial": ({"lr_power": 2.0}, lambda p: (1 - 1e-4) * (1 - p) ** 2 + 1e-4),  # to 1e-7
}


@pytest.mark.parametrize("warm", [0, WARM])
@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_is_its_formula_after_a_straight_warm_up(name, warm):
    settings, formula = SHAPES[name]
    found = factors(lr_scheduler=name, lr_warmup_steps=warm, **settings)
    assert found[:warm] == pytest.approx([step / WARM for step in range(warm)])
    shares = [step / (STEPS - warm) for step in range(STEPS - warm)]
    assert found[warm:] == pytest.approx([formula(share) for share in shares], abs=1e-9)


@pytest.mark.parametrize("warm", [0, WARM])
@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_is_that_of_diffusers(name, warm):
    settings, _ = SHAPES[name]
    config = TrainConfig(lr_scheduler=name, lr_warmup_steps=warm, steps=STEPS, **settings)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=config.learning_rate)
    scheduler = get_scheduler(
        "constant_with_warmup" if name == "constant" else name,
        optimizer,
        num_warmup_steps=warm,
        num_training_steps=STEPS,
        num_cycles=config.lr_cycles,
        power=config.lr_power,
    )
    theirs = [scheduler.lr_lambdas[0](step) for step in range(STEPS)]
    ours = [rate_factor(config)(step) for step in range(STEPS)]
    assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-12)


def test_a_run_moves_a_and_b_at_that_rate_and_nu_at_its_own(monkeypatch):
    seen = []
    applied = RowAdamW.applied

    def note(self):
        seen.append([group["lr"] for group in self.adamw.param_groups])
        applied(self)

    monkeypatch.setattr(RowAdamW, "applied", note)
    run(BASE)
    first = [rho for _, rho in seen]
    assert [rate for rate, _ in seen] == [BASE.learning_rate] * BASE.steps
    seen.clear()
    config = TrainConfig(**vars(BASE) | {"lr_scheduler": "cosine", "lr_warmup_steps": 2})
    run(config)
    wanted = [config.learning_rate * rate_factor(config)(step) for step in range(config.steps)]
    assert [rate for rate, _ in seen] == wanted and wanted[0] == 0 and len(set(wanted)) > 5
    assert [rho for _, rho in seen] == first
