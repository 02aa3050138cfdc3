"""Examples and the order in which they come."""

from collections import Counter
from itertools import islice

import pytest
import torch

from lora2_core.diffusion.data import Example, batches, check_examples
from lora2_core.errors import LoRA2Error


def example(mark, height=4, tokens=5, empty=None):
    """An example that can be told by its first number. empty: tokens of the empty caption."""
    latent = torch.full((1, 4, height, 4), float(mark))
    nothing = None if empty is None else {"context": torch.full((1, empty, 3), -1.0)}
    return Example(latent, {"context": torch.full((1, tokens, 3), float(mark))}, nothing)


def marks(batch):
    return [int(latent[0, 0, 0]) for latent in batch.latents]


def take(count, examples, **changes):
    settings = {"batch_size": 1, "accumulation": 1, "seed": 0} | changes
    return list(islice(batches(examples, **settings), count))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 10])
def test_every_example_comes_once_an_epoch(batch_size):
    examples = [example(i, height=4 + 4 * (i % 2)) for i in range(7)]  # four of one size, three
    an_epoch = -(-4 // batch_size) + -(-3 // batch_size)
    steps = take(3 * an_epoch, examples, batch_size=batch_size)
    for epoch in range(3):
        seen = Counter()
        for (batch,) in steps[epoch * an_epoch : (epoch + 1) * an_epoch]:
            seen.update(marks(batch))
        assert seen == Counter(range(7))


def test_a_batch_holds_one_size_and_as_many_as_fit():
    examples = [example(i, height=4 + 4 * (i % 2)) for i in range(12)]
    for (batch,) in take(30, examples, batch_size=3):
        assert len(batch.latents) == 3
        assert len({mark % 2 for mark in marks(batch)}) == 1


def test_examples_with_unequal_conditioning_are_kept_apart():
    examples = [example(i, tokens=5 + i % 2) for i in range(8)]
    for (batch,) in take(12, examples, batch_size=4):
        assert len({mark % 2 for mark in marks(batch)}) == 1
        assert batch.conditioning["context"][:, 0, 0].tolist() == marks(batch)


def test_the_order_follows_the_seed_and_changes_from_epoch_to_epoch():
    examples = [example(i) for i in range(20)]

    def order(seed, count=60):
        return [marks(batch)[0] for (batch,) in take(count, examples, seed=seed)]

    assert order(3) == order(3)
    assert order(3) != order(4)
    assert order(3)[:20] != order(3)[20:40]


def test_accumulated_batches_weigh_one_together():
    for step in take(5, [example(i) for i in range(8)], accumulation=4):
        assert len(step) == 4
        assert sum(batch.weight for batch in step) == pytest.approx(1)


def test_prior_batches_stand_beside_each_batch_with_their_weight():
    own, prior = [example(i) for i in range(3)], [example(100 + i) for i in range(5)]
    steps = take(30, own, prior=prior, prior_weight=0.5, accumulation=2, batch_size=1)
    seen = Counter()
    for step in steps:
        assert [batch.weight for batch in step] == [0.5, 0.25, 0.5, 0.25]
        for batch in step[1::2]:
            seen.update(marks(batch))
        assert all(marks(batch)[0] < 100 for batch in step[::2])
    assert seen == Counter({100 + i: 12 for i in range(5)})


def test_a_pass_holds_every_image_as_often_as_asked_but_those_of_the_prior_once():
    own, prior = [example(i) for i in range(3)], [example(100 + i) for i in range(6)]
    steps = take(2 * 6, own, prior=prior, repeats=4, batch_size=2)
    assert all(len(marks(batch)) == 2 for step in steps for batch in step)  # 3 fill no twos
    for start in (0, 6):
        assert Counter(m for step in steps[start : start + 6] for m in marks(step[0])) == {
            0: 4, 1: 4, 2: 4,
        }  # fmt: skip
    for start in range(0, 12, 3):
        seen = Counter(m for step in steps[start : start + 3] for m in marks(step[1]))
        assert set(seen.values()) == {1}


def is_empty(batch):
    return (batch.conditioning["context"] == -1).flatten(1).all(1).tolist()


def test_captions_are_dropped_with_the_chance_that_was_asked_for():
    own, prior = [example(i, empty=5) for i in range(4)], [example(9, empty=5)]
    steps = take(2000, own, prior=prior, caption_dropout=0.3)
    for place in (0, 1):  # of the prior, too
        share = sum(is_empty(step[place])[0] for step in steps) / 2000
        assert share == pytest.approx(0.3, abs=0.04)
    assert all(is_empty(b)[0] for (b,) in take(20, own, caption_dropout=1.0))
    assert not any(is_empty(b)[0] for (b,) in take(20, own))


def test_dropout_changes_neither_order_nor_pictures_nor_the_other_captions():
    own = [example(i, empty=5) for i in range(7)]
    plain, some = take(30, own, batch_size=2), take(30, own, batch_size=2, caption_dropout=0.5)
    dropped = 0
    for (one,), (other,) in zip(plain, some, strict=True):
        assert torch.equal(one.latents, other.latents)
        for index, empty in enumerate(is_empty(other)):
            dropped += empty
            if not empty:
                told = other.conditioning["context"][index]
                assert torch.equal(told, one.conditioning["context"][index])
    assert 10 < dropped < 50


def test_an_empty_caption_of_another_length_has_batches_of_its_own():
    own = [example(i, tokens=10, empty=5) for i in range(8)]
    kinds = set()
    for (batch,) in take(40, own, batch_size=4, caption_dropout=0.5):
        assert len(set(is_empty(batch))) == 1
        kinds |= set(is_empty(batch))
    assert kinds == {True, False}


def test_dropout_without_an_empty_caption_is_refused_at_once():
    with pytest.raises(LoRA2Error, match=r"caption_dropout is 0\.1, but .* empty prompt"):
        batches([example(0)], batch_size=1, accumulation=1, seed=0, caption_dropout=0.1)
    with pytest.raises(LoRA2Error, match="empty prompt"):
        batches(
            [example(0, empty=5)], batch_size=1, accumulation=1, seed=0, prior=[example(1)],
            caption_dropout=0.1,
        )  # fmt: skip


@pytest.mark.parametrize("seed", [0, 2**63, 2**64 - 1])
def test_every_seed_of_a_seed_widget_works_with_prior_images(seed):
    own, prior = [example(0)], [example(1)]
    assert len(take(1, own, prior=prior, seed=seed)[0]) == 2


def test_an_empty_set_is_refused():
    with pytest.raises(LoRA2Error, match="no regularisation images"):
        check_examples([], 4, "regularisation images")


def test_a_wrong_channel_count_is_refused_with_the_shape():
    with pytest.raises(LoRA2Error, match=r"latents 1 have shape \(1, 4, 4, 4\).*16 channels"):
        check_examples([Example(torch.zeros(1, 16, 4, 4), {}), example(0)], 16)
    with pytest.raises(LoRA2Error, match=r"shape \(4, 4, 4\)"):
        check_examples([Example(torch.zeros(4, 4, 4), {})], 4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_by_place(bad):
    good, broken = example(0), example(1)
    check_examples([good, broken], 4)
    broken.latent[0, 2, 1, 1] = bad
    with pytest.raises(LoRA2Error, match="latents 1 hold NaN or infinity"):
        check_examples([good, broken], 4)
    broken = example(1)
    broken.conditioning["context"][0, 0, 0] = bad
    with pytest.raises(LoRA2Error, match="conditioning context of latents 1"):
        check_examples([good, broken], 4)
