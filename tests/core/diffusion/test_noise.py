"""Noise with an offset, and noise levels that are favoured."""

from dataclasses import replace

import pytest
import reference
import torch
from toy_runs import BASE, run

from lora2_core.config import TrainConfig
from lora2_core.diffusion.noise import draw_noise
from lora2_core.diffusion.timesteps import draw_levels
from lora2_core.errors import LoRA2Error
from lora2_core.training.level_weights import level_weights


def stream():
    return torch.Generator().manual_seed(0)


def test_without_an_offset_noise_and_stream_are_those_of_randn():
    ours, theirs = stream(), stream()
    assert torch.equal(
        draw_noise((2, 4, 8, 8), 0.0, ours), torch.randn(2, 4, 8, 8, generator=theirs)
    )
    assert torch.equal(ours.get_state(), theirs.get_state())


def test_the_offset_is_one_number_a_channel_of_each_image():
    offset = 0.25
    with_it, without = (
        draw_noise((64, 4, 8, 8), offset, stream()),
        draw_noise((64, 4, 8, 8), 0, stream()),
    )
    shared = with_it - without
    assert shared.flatten(2).std(-1).max() < 1e-6
    means = shared.mean((2, 3)) / offset
    assert len(means.unique()) == 64 * 4
    assert means.mean().abs() < 0.2 and means.std() == pytest.approx(1, abs=0.15)


def test_levels_without_a_bias_are_those_of_randint():
    ours, theirs = stream(), stream()
    assert level_weights(TrainConfig(), 1000) is None
    found = draw_levels(50, 1000, None, ours)
    assert torch.equal(found, torch.randint(1000, (50,), generator=theirs))
    assert torch.equal(ours.get_state(), theirs.get_state())


BIASES = {
    "earlier": {"timestep_bias_portion": 0.3},
    "later": {"timestep_bias_portion": 0.2},
    "range": {"timestep_bias_begin": 2, "timestep_bias_end": 5},
}


@pytest.mark.parametrize("name", BIASES)
def test_levels_come_as_often_as_their_chance_says(name):
    config = TrainConfig(timestep_bias=name, timestep_bias_multiplier=4.0, **BIASES[name])
    found = draw_levels(40_000, 10, level_weights(config, 10), stream())
    shares = torch.bincount(found, minlength=10) / 40_000
    wanted = torch.tensor(reference.chances(config, 10))
    assert sorted(wanted.tolist())[0] * 4 == pytest.approx(sorted(wanted.tolist())[-1])
    torch.testing.assert_close(shares, wanted, rtol=0, atol=0.008)


def test_a_range_that_the_model_has_not_is_refused_before_the_first_step():
    config = replace(BASE, timestep_bias="range", timestep_bias_end=11)
    with pytest.raises(LoRA2Error, match="timestep_bias_end is 11, but the model has 10"):
        run(config)
