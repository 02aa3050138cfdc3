"""Fixed noise and times."""

import torch
from tradeoff import denoising


def test_times_are_even_over_the_schedule_for_the_whole_set_and_for_every_scene():
    times = denoising.stratified(6, 4, 1000, 0)
    assert sorted(times.flatten().tolist()) == [int((i + 0.5) * 1000 / 24) for i in range(24)]
    assert [set((row // 250).tolist()) for row in times] == [{0, 1, 2, 3}] * 6
    assert torch.equal(times, denoising.stratified(6, 4, 1000, 0))
