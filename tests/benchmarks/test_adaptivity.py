"""Whether ranks follow the task."""

import random

from tradeoff import adaptivity


def test_the_share_between_tasks_is_1_without_noise_and_about_0_without_tasks():
    rng = random.Random(0)
    keys = [(f"t{i}", seed) for i in range(40) for seed in range(4)]
    assert adaptivity.share_between({k: float(k[0][1:]) for k in keys}) == 1
    assert abs(adaptivity.share_between({k: rng.gauss(0, 1) for k in keys})) < 0.15
    effect = {k[0]: rng.gauss(0, 1) for k in keys}
    half = adaptivity.share_between({k: effect[k[0]] + rng.gauss(0, 1) for k in keys})
    assert 0.3 < half < 0.7
    assert adaptivity.share_between({("a", 0): 1.0, ("b", 0): 2.0}) is None


def test_what_sets_a_subject_apart_is_counted(subjects):
    assert adaptivity.complexity(subjects["mint mug"]) == 0
    assert adaptivity.complexity(subjects["star robot"]) == 6
