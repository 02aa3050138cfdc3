"""Layers that the loss does not reach: they stop a run, or are named, and cost nothing."""

from dataclasses import replace

import pytest
import torch
import toy
from torch import nn
from toy_runs import BASE, data, run, same_bits

from lora2_core.diffusion.data import Example, batches
from lora2_core.layers.adapter import Adapter
from lora2_core.training import gradients
from lora2_core.training.gradients import GradientGuard, NoGradient
from lora2_core.training.loop import Training

PLAIN = replace(BASE, method="lora")
attention = nn.functional.scaled_dot_product_attention


@torch.library.custom_op("lora2_test::inference", mutates_args=())
def inference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return attention(q, k, v)


def in_place(q, k, v):
    q = q.exp()
    out = attention(q, k, v)
    q.add_(1)
    return out


class Unwritten(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v):
        return attention(q, k, v)


KERNELS = {
    "cut": lambda q, k, v: attention(q.detach(), k.detach(), v.detach()),
    "zero": lambda q, k, v: attention(*(part.detach() + 0.0 * part for part in (q, k, v))),
    "without_grad": torch.no_grad()(attention),
}
RAISING = {
    "operator": inference,
    "function": Unwritten.apply,
    "in_place": in_place,
}


@pytest.fixture
def infers(monkeypatch):
    """Has the toy's attention computed by another kernel, in recomputations too."""
    return lambda kernel: monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", kernel)


def begun(denoiser=None, config=PLAIN):
    return Training(denoiser or toy.ToyDenoiser(), data(), config)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_attention_without_a_gradient_stops_the_run_before_its_fifth_step(infers, kernel, dtype):
    infers(KERNELS[kernel])
    training = begun(config=replace(PLAIN, dtype=dtype))
    with pytest.raises(NoGradient, match="12 of 16 adapted layers") as caught:
        training.run()
    assert training.done == gradients.STEPS - 1
    assert "toy.blocks.0.attn1.to_k, toy.blocks.0.attn1.to_q" in str(caught.value)
    assert "sage-attention" in str(caught.value)


def test_layers_that_only_the_entropy_reaches_are_reached(infers):
    """As in a real run: of cross-attention q and k have the gradient of another term."""
    infers(KERNELS["cut"])
    with pytest.raises(NoGradient, match="8 of 16 adapted layers"):
        begun(config=BASE).run()


@pytest.mark.parametrize("steps", [1, 3])
def test_a_run_of_fewer_steps_is_stopped_at_its_last(infers, steps):
    infers(KERNELS["cut"])
    training = begun(config=replace(PLAIN, steps=steps))
    with pytest.raises(NoGradient, match=f"in {steps} steps"):
        training.run()
    assert training.done == steps - 1


@pytest.mark.parametrize("kernel", RAISING)
def test_attention_that_raises_is_said_in_our_words(infers, kernel):
    infers(RAISING[kernel])
    training = begun(config=replace(PLAIN, gradient_checkpointing=False))
    with pytest.raises(NoGradient, match=r"step 1 has no gradient \(.+\)\. .*flash-attention"):
        training.run()
    assert training.done == 0


def test_other_errors_of_a_step_stay_what_they_are(infers):
    def broken(q, k, v):
        raise RuntimeError("the shapes do not fit")

    infers(broken)
    with pytest.raises(RuntimeError, match=r"^the shapes do not fit$"):
        begun().run()


class Skips(toy.ToyDenoiser):
    """Its last block is never asked."""

    def predict(self, noisy, t, conditioning):
        blocks, self.network.blocks = self.network.blocks, self.network.blocks[:1]
        try:
            return super().predict(noisy, t, conditioning)
        finally:
            self.network.blocks = blocks


def test_layers_that_take_no_part_are_named_once_and_the_others_learn():
    said, denoiser = [], Skips()
    result = begun(denoiser).run(on_trouble=said.append)
    [text] = said
    assert text.startswith("8 of 16 adapted layers (toy.blocks.1.attn1.to_k") and "no part" in text
    for name, (_, up) in result.factors.items():
        assert up.any() == ("blocks.0" in name)


def test_without_somebody_to_tell_the_log_is_told(caplog):
    begun(Skips()).run()
    assert sum("no part" in record.getMessage() for record in caplog.records) == 1


class Blank(toy.ToyDenoiser):
    def predict(self, noisy, t, conditioning):
        return super().predict(noisy, t, {"context": 0 * conditioning["context"]})


def test_zeros_in_place_of_a_caption_are_named_and_stop_nothing():
    said = []
    begun(Blank()).run(on_trouble=said.append)
    assert len(said) == 1 and "nothing but zeros" in said[0] and "8 of 16" in said[0]


def test_attention_over_a_single_key_needs_no_gradient():
    """Its one weight is 1 whatever query and key are: a picture of 32 px has such a level."""
    examples = [Example(torch.randn(1, 4, 1, 1), {"context": torch.randn(1, 7, 12)})]
    order = batches(examples, batch_size=1, accumulation=1, seed=0)
    said = []
    Training(toy.ToyDenoiser(), order, PLAIN).run(on_trouble=said.append)
    assert said == []


def test_it_changes_no_bit_and_leaves_nothing_behind(monkeypatch):
    denoiser = toy.ToyDenoiser()
    counts = []

    def count(info):
        hooks = (len(module._forward_pre_hooks) for module in denoiser.network.modules())
        counts.append(sum(hooks))

    watched = run(BASE, denoiser, count)
    assert counts == [16] * (gradients.STEPS - 1) + [0] * (9 - gradients.STEPS)
    monkeypatch.setattr(GradientGuard, "look", lambda *_: None)
    assert same_bits(watched, run(BASE))


def test_pictures_in_between_do_not_count():
    """What a preview does with a layer is no part of a step."""
    denoiser, said = Skips(), []
    training = begun(denoiser)

    def draw(info):
        with training.sampled():
            denoiser.network(torch.ones(1, 4, 4, 4), torch.zeros(1), torch.ones(1, 7, 12))

    training.run(draw, on_trouble=said.append)
    assert len(said) == 1 and "no part" in said[0]


def encoder(reached):
    """A guard that has looked at six layers of one text encoder, of which these were reached."""
    names = [f"te1.text_model.encoder.layers.{i}.self_attn.v_proj" for i in range(6)]
    layers = [nn.Linear(3, 3) for _ in names]
    adapters = [Adapter(*both, torch.device("cpu")) for both in zip(names, layers, strict=True)]
    guard = GradientGuard(adapters, names)
    with guard.attached():
        for index, adapter in enumerate(adapters):
            adapter.set_rank(1, torch.ones(1, 3), torch.zeros(1, 3))
            adapter.b.active.grad = torch.full((1, 3), float(index in reached))
            adapter.layer(torch.ones(1, 2, 3))
        return guard, guard.look(last=True).tolist()


@pytest.mark.parametrize("reached", [{0, 1, 2, 3, 4}, {0, 1, 2, 3}, {0}])
def test_the_end_of_a_text_encoder_may_be_left_unread(reached):
    guard, found = encoder(reached)
    said = []
    guard.judge(found, said.append)
    assert said == []


@pytest.mark.parametrize("reached", [set(), {1, 2, 3, 4}, {0, 1, 2, 5}])
def test_but_not_its_middle_nor_all_of_it(reached):
    with pytest.raises(NoGradient, match="of 6 adapted layers"):
        guard, found = encoder(reached)
        guard.judge(found, pytest.fail)
