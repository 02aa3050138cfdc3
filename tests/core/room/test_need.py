"""What a step takes, counted without memory, against what it takes; and running out of it."""

from dataclasses import replace

import pytest
import torch
import toy
from toy_runs import BASE, data, run, same_bits

from lora2_core.diffusion.data import Batch, Example
from lora2_core.layers.half import half_factors
from lora2_core.layers.inject import attached
from lora2_core.room import trace
from lora2_core.room.advice import OutOfMemory, explained, is_out_of_memory
from lora2_core.room.need import kept, memory_need, savings
from lora2_core.runs.run_folder import RunFolder, run_kept
from lora2_core.training.forward import DTYPES, entropy_probe, forward, watched
from lora2_core.training.loop import Training

EXAMPLE = Example(torch.randn(1, 4, 16, 16), {"context": torch.randn(1, 7, 12)})
BATCH = Batch(EXAMPLE.latent, EXAMPLE.conditioning)
CONFIGS = {
    "plain": replace(BASE, method="lora", gradient_checkpointing=False),
    "entropy": replace(BASE, gradient_checkpointing=False),
    "checkpointed": BASE,
    "bf16": replace(BASE, dtype="bf16"),
    "every layer": replace(BASE, targets="all_linear", r_max=4),
}


def denoiser():
    return toy.ToyDenoiser(width=64, blocks=3)


def really(config):
    """Most bytes that a step of a run has at once, its tensors being real."""
    model = denoiser()
    training = Training(model, data(), config)
    training._method.set_scales(config.steps // 2)
    live = trace._Live()
    probe = entropy_probe(model, config)
    half = half_factors(training._adapters, DTYPES[config.dtype])
    with attached(training._adapters), watched(model, config, probe), live, half:
        loss, entropy = forward(model, BATCH, config, probe, torch.Generator(), None)
        (loss if entropy is None else loss + config.lambda_e * entropy).backward()
    return live.peak


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_step_without_memory_is_a_step_with_it(config):
    training = Training(denoiser(), data(), config)
    counted = trace.step_peak(denoiser(), BATCH, config, training.starts)
    assert counted == pytest.approx(really(config), rel=0.02)


def test_a_network_is_counted_once_for_the_same_step(monkeypatch):
    model, made = denoiser(), []
    dry_step = trace.dry_step
    monkeypatch.setattr(trace, "dry_step", lambda *args: made.append(args[3]) or dry_step(*args))

    def peak(rank, **changes):
        config = replace(BASE, **changes)
        return trace.step_peak(model, BATCH, config, [rank] * 24)

    assert peak(2) == peak(2) == peak(2, seed=9)
    assert len(made) == 1
    assert len({peak(2), peak(4), peak(4, gradient_checkpointing=False)}) == 3
    assert len(made) == 3


def test_the_count_knows_what_is_freed():
    """A chain of layers without gradient: two activations at once, however long it is."""
    live = trace._Live()
    x = torch.randn(100, 100)
    with live:
        for _ in range(10):
            x = torch.sin(x)
            x.view(-1)[:5].add_(1)
    assert live.peak == 2 * 4 * 100 * 100 and live.now == 4 * 100 * 100
    del x
    assert live.now == 0


def test_counting_changes_nothing():
    model = denoiser()
    weights = {name: p.clone() for name, p in model.network.named_parameters()}
    torch.manual_seed(5)
    before = torch.get_rng_state()
    plain = run(denoiser=denoiser())
    training = Training(model, data(), BASE)
    memory_need(model, [EXAMPLE], BASE, training.starts)
    savings(model, [EXAMPLE], BASE, training.starts)
    assert same_bits(training.run(), plain)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, weights[name]) for name, p in model.network.named_parameters())
    assert not any("forward" in vars(m) or m._forward_hooks for m in model.network.modules())


def test_examples_that_a_host_made_without_autograd_are_counted_alike():
    with torch.inference_mode():
        made = Example(EXAMPLE.latent.clone(), {"context": EXAMPLE.conditioning["context"].clone()})
    needs = [memory_need(denoiser(), [e], BASE, [4] * 24) for e in (EXAMPLE, made)]
    assert needs[0] == needs[1]


@pytest.mark.parametrize("method", ["lora2", "lora"])
@pytest.mark.parametrize("rank", [3, 8, 9, 12])
def test_the_adapters_part_is_what_their_rows_and_moments_take(method, rank):
    config = replace(BASE, method=method, r_init=rank)
    training = Training(denoiser(), data(), config)
    held = sum(
        getattr(rows, name).nbytes
        for adapter in training._adapters
        for rows in (adapter.a, adapter.b)
        for name in ("values", "exp_avg", "exp_avg_sq")
    )
    need = memory_need(denoiser(), [EXAMPLE], config, training.starts)
    assert need.adapters == held
    assert need.weights == sum(p.nbytes for p in denoiser().network.parameters())


@pytest.mark.parametrize("method", ["lora2", "lora", "ac_lora"])
def test_what_effects_are_known_by_is_counted(method):
    config = replace(BASE, method=method, r_init=12, steps=1, effect_share=0.9)
    training = Training(denoiser(), data(), config)
    starts = training.starts
    training.run()
    moments = training._parts.moments
    held = 0 if moments is None else sum(part.nbytes for part in moments.tensors().values())
    assert (held > 0) == (method != "ac_lora")
    for found in (
        lambda c: memory_need(denoiser(), [EXAMPLE], c, starts).adapters,
        lambda c: kept(denoiser(), c, starts),
    ):
        assert found(config) - found(replace(config, effect_share=1.0)) == held


def test_larger_pictures_batches_and_ranks_need_more_and_checkpointing_less():
    ranks = [4] * 24

    def need(config=BASE, side=16, ranks=ranks):
        example = replace(EXAMPLE, latent=torch.randn(1, 4, side, side))
        return memory_need(denoiser(), [EXAMPLE, example], config, ranks).total

    assert need(side=32) > need() == need(side=8)  # the largest picture counts
    assert need(replace(BASE, batch_size=2)) > need()
    assert need(ranks=[12] * 24) > need()
    assert need(replace(BASE, gradient_checkpointing=False), side=32) > need(side=32)


def test_what_would_help_comes_with_the_largest_saving_first():
    config = replace(BASE, batch_size=4, gradient_checkpointing=False)
    found = savings(denoiser(), [EXAMPLE], config, [12] * 24)
    assert [saved for _, saved in found] == sorted((s for _, s in found), reverse=True)
    words = [name for name, _ in found]
    assert {"gradient_checkpointing", "batch_size 1", "the optimizer adamw8bit"} <= set(words)
    for words, changed in (
        ("gradient_checkpointing", replace(config, gradient_checkpointing=True)),
        ("batch_size 1", replace(config, batch_size=1)),
        ("the optimizer adamw8bit", replace(config, optimizer="adamw8bit")),
    ):
        before, after = (
            memory_need(denoiser(), [EXAMPLE], c, [12] * 24).total for c in (config, changed)
        )
        assert dict(found)[words] == pytest.approx(before - after, rel=0.1)


class Starved(toy.ToyDenoiser):
    """Has no memory left at the forward pass `at`."""

    def __init__(self, error, at):
        super().__init__()
        self.error, self.at, self.calls = error, at, 0

    def predict(self, noisy, t, conditioning):
        if type(noisy) is torch.Tensor:  # and not one that only counts
            self.calls += 1
            if self.calls == self.at:
                raise self.error
        return super().predict(noisy, t, conditioning)


ERRORS = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", ERRORS)
def test_a_run_that_runs_out_is_kept_and_says_what_would_help(error, tmp_path):
    model = Starved(error, at=4)
    config = replace(BASE, gradient_checkpointing=False)
    training, folder = Training(model, data(), config), RunFolder(tmp_path / "run")
    freed = []
    with (
        pytest.raises(OutOfMemory) as caught,
        explained(training, model, [EXAMPLE], lambda: "Kept", lambda: freed.append(1)),
    ):
        run_kept(training, folder, 0, lambda info: None, pytest.fail)
    text = str(caught.value)
    assert text.startswith("out of memory at step 4 of 8. Kept. What would need less: ")
    assert "gradient_checkpointing would save about" in text and "can go on with it" in text
    assert freed == [1]
    # it goes on with what was advised, and nothing of the first three steps is lost
    again = Training(toy.ToyDenoiser(), data(), replace(config, gradient_checkpointing=True))
    again.restore(folder.newest())
    assert again.done == 3
    assert same_bits(again.run(), run(config))


def test_the_tensors_of_the_broken_step_are_gone_when_the_device_is_asked_to_free():
    model = Starved(ERRORS[0], at=2)
    alive = []

    def predict(noisy, t, conditioning):
        big = noisy.clone()
        alive.append(torch.multiprocessing.reductions.StorageWeakRef(big.untyped_storage()))
        return Starved.predict(model, big, t, conditioning)

    model.predict = predict
    training = Training(model, data(), BASE)
    gone = []
    with (
        pytest.raises(OutOfMemory),
        explained(training, model, [EXAMPLE], str, lambda: gone.append(alive[-1].expired())),
    ):
        training.run()
    assert gone == [True]


def test_other_errors_pass():
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(ValueError("out of memory"))
    model = Starved(RuntimeError("shapes do not fit"), at=1)
    training = Training(model, data(), BASE)
    with (
        pytest.raises(RuntimeError, match="shapes do not fit"),
        explained(training, model, [EXAMPLE], str, pytest.fail),
    ):
        training.run()
