"""The loop: reproducible, and leaves the model as it was whatever happens."""

import copy
import math
import sys
from dataclasses import replace
from itertools import islice, pairwise

import pytest
import torch
import toy
from torch.optim.optimizer import register_optimizer_step_post_hook
from toy_runs import BASE, Stop, data, run, same_bits, stop_at

from lora2_core.errors import LoRA2Error
from lora2_core.optimizers.adamw import RowAdamW
from lora2_core.training.loop import Training, train
from lora2_core.training.plan import starting_ranks
from lora2_core.training.result import TrainingDiverged


@pytest.mark.parametrize("method", ["lora2", "ac_lora", "lora"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(method):
    config = replace(BASE, method=method)
    first = run(config)
    assert same_bits(first, run(config)) and first.losses == run(config).losses
    other = run(replace(config, seed=1))
    assert not same_bits(first, other)
    for (down, up), (other_down, other_up) in zip(
        first.factors.values(), other.factors.values(), strict=True
    ):
        assert not torch.equal(down[0], other_down[0]) and not torch.equal(up, other_up)


@pytest.mark.parametrize("method", ["lora2", "ac_lora", "lora"])
def test_training_lowers_the_loss(method):
    """Noise seen beside its own picture can be told: both methods must learn some of it."""
    config = replace(BASE, method=method, steps=150, learning_rate=1e-2, r_target=4)
    losses = run(config, count=1, batch_size=1).losses
    assert sum(losses[-30:]) < 0.9 * sum(losses[:30])


def test_gradient_checkpointing_changes_no_bit():
    with_it = run(replace(BASE, gradient_checkpointing=True))
    without = run(replace(BASE, gradient_checkpointing=False))
    assert same_bits(with_it, without) and with_it.losses == without.losses


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_mixed_precision_stays_finite_and_near_fp32(dtype):
    half, full = run(replace(BASE, dtype=dtype)), run()
    assert half.losses != full.losses
    assert half.losses == pytest.approx(full.losses, rel=0.05)
    for down, up in half.factors.values():
        assert down.dtype == up.dtype == torch.float32
        assert torch.isfinite(down).all() and torch.isfinite(up).all() and up.abs().sum() > 0


class Loud(toy.ToyDenoiser):
    """Its prediction is so large that 65536 times the gradient is past fp16 for some steps."""

    def predict(self, noisy, t, conditioning):
        return super().predict(noisy, t, conditioning) * 300


def test_fp16_skips_steps_that_overflow_and_goes_on():
    seen = []
    result = run(replace(BASE, dtype="fp16", steps=20), Loud(), seen.append)
    first = [info.ranks for info in seen]
    assert first[0] == (4,) * 16  # skipped: nothing moved
    assert first[-1] != (4,) * 16
    for down, up in result.factors.values():
        assert torch.isfinite(down).all() and torch.isfinite(up).all() and up.abs().sum() > 0


def test_fp16_does_not_count_a_skipped_step_in_the_age_of_the_rows(monkeypatch):
    steps, counted = [], []
    applied = RowAdamW.applied
    monkeypatch.setattr(RowAdamW, "applied", lambda self: (counted.append(1), applied(self)))
    hook = register_optimizer_step_post_hook(lambda *_: steps.append(1))
    try:
        run(replace(BASE, dtype="fp16", steps=20), Loud())
    finally:
        hook.remove()
    assert 0 < len(counted) == len(steps) < 20


class NoiselessDenoiser(toy.ToyDenoiser):
    """Predicts the picture from itself, so that a step depends on nothing but its examples."""

    def corrupt(self, latents, noise, t):
        return latents, latents.flip(-1)

    def predict(self, noisy, t, conditioning):
        return super().predict(noisy, torch.zeros_like(t), conditioning)


def test_two_accumulated_batches_of_one_equal_one_batch_of_two():
    config = replace(BASE, lambda_e=0.1, entropy_queries=1000)
    accumulated = run(config, NoiselessDenoiser(), count=2, accumulation=2)
    together = run(config, NoiselessDenoiser(), count=2, batch_size=2)
    assert accumulated.losses == pytest.approx(together.losses, rel=1e-5)
    for name, (down, up) in accumulated.factors.items():
        torch.testing.assert_close(down, together.factors[name][0], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(up, together.factors[name][1], rtol=1e-3, atol=1e-5)
    single = run(config, NoiselessDenoiser(), count=2)
    assert accumulated.losses != pytest.approx(single.losses, rel=1e-3)


def test_the_first_prediction_is_that_of_the_base_model_bit_for_bit():
    class Recording(toy.ToyDenoiser):
        def predict(self, noisy, t, conditioning):
            out = super().predict(noisy, t, conditioning)
            if not hasattr(self, "first"):
                self.first = (noisy, t, conditioning, out)
            return out

    denoiser = Recording()
    run(replace(BASE, init="printed"), denoiser)
    noisy, t, conditioning, out = denoiser.first
    assert out.requires_grad  # the adapters were at work
    assert torch.equal(out, toy.ToyDenoiser().predict(noisy, t, conditioning))


def test_on_step_sees_every_step_and_the_result_repeats_it():
    seen = []
    result = run(on_step=seen.append)
    assert [info.step for info in seen] == list(range(1, 9))
    assert [info.loss for info in seen] == result.losses and result.steps == 8
    assert seen[-1].ranks == tuple(rank for _, rank in result.ranks.values())
    assert seen[-1].mean_rank == sum(seen[-1].ranks) / 16
    assert all(0 < info.entropy < math.log(7) for info in seen)
    assert all(a.seconds <= b.seconds for a, b in pairwise(seen))
    assert next(iter(result.factors)) == "toy.blocks.0.attn1.to_k"
    for name, (down, up) in result.factors.items():
        assert down.shape[0] == up.shape[1] == result.ranks[name][1]


def test_without_entropy_none_is_reported_and_the_fast_path_has_no_probe():
    seen = []
    run(replace(BASE, lambda_e=0.0), on_step=seen.append)
    run(replace(BASE, method="lora"), on_step=seen.append)
    assert [info.entropy for info in seen] == [None] * 16


def test_plain_lora_keeps_its_rank_and_starts_like_peft():
    result = run(replace(BASE, method="lora", learning_rate=1e-9, weight_decay=0.0))
    assert set(result.ranks.values()) == {(None, 4)}
    for down, up in result.factors.values():
        bound = down.shape[1] ** -0.5
        assert 0.7 * bound < down.max() <= bound and -bound <= down.min() < -0.7 * bound
        assert up.abs().max() < 1e-6


def state(denoiser):
    """Everything a run might leave behind in a network."""
    modules = list(denoiser.network.modules())
    parameters = list(denoiser.network.parameters())
    return (
        [dict(vars(m)) | {"_parameters": None, "_modules": None} for m in modules],
        [copy.copy(m._forward_hooks) for m in modules],
        [(p.requires_grad, p.grad, p._version) for p in parameters],
        [m.training for m in modules],
    )


class FailingDenoiser(toy.ToyDenoiser):
    """Does `what` at the third prediction: raises it, or returns it."""

    def __init__(self, what=None, at=3):
        super().__init__()
        self.what, self.at, self.calls = what, at, 0

    def predict(self, noisy, t, conditioning):
        self.calls += 1
        out = super().predict(noisy, t, conditioning)
        if self.calls != self.at or self.what is None:
            return out
        if isinstance(self.what, float):
            return out * self.what
        if self.what == "backward":
            return out + _NaNBackward.apply(out)
        raise self.what


class _NaNBackward(torch.autograd.Function):
    """Zero, with a gradient of NaN: what an overflow in some backward kernel looks like."""

    @staticmethod
    def forward(ctx, x):
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * float("nan")


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize(
    ("what", "on_step", "error"),
    [
        (None, None, None),
        (None, stop_at(3, RuntimeError("on_step")), RuntimeError),
        (None, stop_at(3, Stop()), Stop),
        (Stop(), None, Stop),
        (KeyboardInterrupt(), None, KeyboardInterrupt),
        (float("nan"), None, TrainingDiverged),
        ("backward", None, TrainingDiverged),
    ],
    ids=lambda value: type(value).__name__ if value is not None else "-",
)
def test_the_denoiser_is_left_as_it_was(what, on_step, error, checkpointing):
    denoiser = FailingDenoiser(what)
    before = state(denoiser)
    inputs = (torch.randn(1, 4, 4, 4), torch.tensor([3]), {"context": torch.randn(1, 7, 12)})
    expected = toy.ToyDenoiser.predict(denoiser, *inputs)
    config = replace(BASE, gradient_checkpointing=checkpointing)
    if error is None:
        run(config, denoiser, on_step)
    else:
        with pytest.raises(error):
            run(config, denoiser, on_step)
        assert denoiser.calls == 3
    assert state(denoiser) == before
    assert torch.equal(toy.ToyDenoiser.predict(denoiser, *inputs), expected)


@pytest.mark.parametrize("method", ["lora2", "lora"])
@pytest.mark.parametrize("what", [float("nan"), float("inf"), "backward"])
def test_a_diverged_run_names_its_step_and_carries_the_last_good_adapter(method, what):
    config = replace(BASE, method=method)
    with pytest.raises(TrainingDiverged) as caught:
        run(config, FailingDenoiser(what, at=5))
    error = caught.value
    assert error.step == 5
    assert "at step 5 of 8" in str(error) and "0.003" in str(error) and "fp32" in str(error)
    # a run of four steps at the same rates
    shorter = run(replace(config, steps=4, rank_rate=4 * 0.25))
    assert same_bits(error.result, shorter)
    assert error.result.losses == shorter.losses and error.result.steps == 4


def test_a_run_that_diverges_at_once_carries_the_start():
    with pytest.raises(TrainingDiverged) as caught:
        run(denoiser=FailingDenoiser(float("nan"), at=1))
    assert caught.value.step == 1 and caught.value.result.losses == []
    assert all((up == 0).all() for _, up in caught.value.result.factors.values())


def test_a_gradient_that_is_not_finite_at_the_last_step_is_noticed():
    with pytest.raises(TrainingDiverged, match="gradient became nan at step 8 of 8"):
        run(denoiser=FailingDenoiser("backward", at=8))


@pytest.mark.parametrize("method", ["lora2", "ac_lora", "lora"])
def test_a_rank_above_a_layers_size_is_refused_before_training(method):
    config = replace(BASE, method=method, r_init=13, r_max=13)
    denoiser = FailingDenoiser()
    with pytest.raises(LoRA2Error, match=r"rank 13 is above the size of layer"):
        run(config, denoiser)
    assert denoiser.calls == 0
    assert not any(m._forward_hooks for m in denoiser.network.modules())


HOST_COPIES = ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__", "__index__")


def host_copies(monkeypatch, blocks, steps):
    """How often lora2_core itself moves a tensor's value to Python in a run of so many steps."""
    count = 0
    with monkeypatch.context() as patch:
        for name in HOST_COPIES:
            original = getattr(torch.Tensor, name)

            def counting(tensor, *args, _original=original, **kwargs):
                nonlocal count
                count += sys._getframe(1).f_globals["__name__"].startswith("lora2_core")
                return _original(tensor, *args, **kwargs)

            patch.setattr(torch.Tensor, name, counting)
        at_last_step = []
        # ranks move at every step, and so they must be read at every step
        config = replace(BASE, steps=8, r_target=1, rank_rate=4.0)
        moved = []

        def on_step(info):
            at_last_step.append(count)
            moved.append(info.ranks)

        train(toy.ToyDenoiser(blocks=blocks), islice(data(count=9), steps), config, on_step)
    assert len(set(moved)) > 2
    return [b - a for a, b in pairwise(at_last_step)]


def test_a_step_costs_two_copies_to_the_host_however_many_components(monkeypatch):
    """One for all ranks and ν, one for loss, entropy and norm; on a GPU each waits for it."""
    assert host_copies(monkeypatch, blocks=1, steps=8) == [2] * 7
    assert host_copies(monkeypatch, blocks=4, steps=8) == [2] * 7


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "lora", "r_init": 3},
        {"method": "ac_lora"},
        {"budget_mb": 0.1},
        {"targets": "all_linear", "r_max": 4},
    ],
    ids=["lora2", "lora", "ac_lora", "budget", "every layer"],
)
def test_the_ranks_that_a_run_starts_from_are_known_before_it(changes):
    config = replace(BASE, **changes)
    model = toy.ToyDenoiser()
    some = {f"lora_unet_toy_blocks_{name}": 2 for name in ("0_attn1_to_q", "1_attn2_to_v")}
    for ranks in (None, some):
        training = Training(model, data(), config, ranks)
        assert starting_ranks(model, config, ranks) == training.starts
        assert [adapter.rank for adapter in training._adapters] == training.starts
