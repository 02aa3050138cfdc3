"""Those that read the pictures."""

import math
import random
from statistics import fmean

import numpy as np
import pytest
import torch
from tradeoff import identity, individuals, reader

from lora2_core.drawn_world.scene import Scene


def test_twins_differ_and_families_are_of_one_kind():
    for seed in range(30):
        family = individuals.family(seed)
        assert len({one.kind for one in family}) == 1
        assert len(set(family)) == individuals.FAMILY
        assert individuals.family(seed) == family


def test_the_contrastive_loss_equals_its_naive_twin():
    generator = torch.Generator().manual_seed(0)
    found = torch.nn.functional.normalize(torch.randn(6, 4, generator=generator), dim=1)
    owner = torch.tensor([0, 0, 0, 1, 1, 1])
    total = 0.0
    for i in range(6):
        others = [j for j in range(6) if j != i]
        everyone = sum(math.exp(found[i] @ found[j] / 0.1) for j in others)
        same = [j for j in others if owner[j] == owner[i]]
        shares = [math.exp(found[i] @ found[j] / 0.1) / everyone for j in same]
        total -= fmean(map(math.log, shares))
    assert identity.contrastive(found, owner).item() == pytest.approx(total / 6, rel=1e-5)


def test_only_what_was_asked_for_is_read(subjects):
    worn = Scene("mug", "in space", None, accessory="hat", subject=subjects["mint mug"])
    scenes = [Scene("mug", "in space", "red"), worn]
    pictures = np.zeros((2, 128, 128, 3), np.uint8)
    found = reader.read(reader.Judge().eval(), pictures, scenes)
    assert found.keys() == {"background", "accessory", "colour"}


def test_a_portrait_knows_its_subject_by_its_renders_and_takes_another_for_its_company(subjects):
    network = identity.Identity().eval()
    mug, duck = (
        individuals.views(subjects[name], random.Random(0), 2)
        for name in ("mint mug", "coral duck")
    )
    portrait = identity.Portrait(network, subjects["mint mug"], mug, [duck])
    found = portrait.read(mug)
    assert 0.9 < found["likeness"] <= 1.0001 and 0 <= found["identified"] <= 1
    assert portrait.read(duck)["confused"] == 1
