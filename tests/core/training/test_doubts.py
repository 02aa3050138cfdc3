"""What goes through and is probably not meant is named, and nothing else is."""

from dataclasses import replace

import pytest
import torch
from toy_runs import BASE

from lora2_core.diffusion.data import Example
from lora2_core.training.doubts import doubts

CPU = torch.device("cpu")


def pictures(*sides, zero=0):
    examples = [Example(torch.randn(1, 4, s, s), {"context": torch.zeros(1, 7, 12)}) for s in sides]
    return examples + [Example(torch.zeros(1, 4, 4, 4), {"context": torch.zeros(1, 7, 12)})] * zero


def test_a_sound_run_raises_none():
    for method in ("lora2", "ac_lora", "lora"):
        config = replace(BASE, method=method, batch_size=2, dtype="bf16")
        assert doubts(config, CPU, pictures(4, 4, 8), pictures(4)) == []
    assert doubts(replace(BASE, dtype="fp16"), torch.device("cuda"), pictures(4)) == []


@pytest.mark.parametrize(
    ("changes", "own", "words"),
    [
        ({"r_target": 13.0}, pictures(4), ["r_target is 13", "r_max, 12"]),
        ({"dtype": "fp16"}, pictures(4), ["fp16 on a CPU"]),
        ({"batch_size": 3}, pictures(4, 4), ["batch_size is 3", "holds 2 pictures,", "repeats"]),
        ({"batch_size": 3}, pictures(4, 4, 8, 8), ["2 pictures of one size"]),
        ({"batch_size": 9, "repeats": 4}, pictures(4, 4), ["8 pictures", "now 4"]),
        ({}, pictures(4, zero=2), ["2 of 3 latents are zero", "VAE"]),
    ],
)
def test_each_is_named_once(changes, own, words):
    [told] = doubts(replace(BASE, **changes), CPU, own)
    assert all(word in told for word in words), told


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "lora", "r_target": 13.0},
        {"lambda_r": 0.0, "r_target": 13.0},
        {"rank_freeze": 1.0, "r_target": 13.0},
        {"importance": "flat", "r_target": 13.0},
        {"budget_mb": 1.0, "r_target": 13.0},
        {"batch_size": 4, "repeats": 2},
    ],
)
def test_what_has_no_say_is_not_spoken_of(changes):
    assert doubts(replace(BASE, **changes), CPU, pictures(4, 4)) == []
