"""Objects drawn in a hand of their own."""

import hashlib
import random
from dataclasses import replace

import numpy as np
import PIL
import pytest

from lora2_core.drawn_world import load_subjects, render
from lora2_core.drawn_world.backgrounds import BACKGROUNDS
from lora2_core.drawn_world.hand import Hand
from lora2_core.drawn_world.objects import KINDS
from lora2_core.drawn_world.scene import Scene, caption, random_scene, subject_scene, vocabulary

HAND = Hand(ink=(58, 30, 150), line=0.11, stroke=0.06, gap=0.24)
MUG = Scene("mug", "on a wooden table", "red", "striped")


def test_without_a_hand_every_picture_is_what_the_model_was_trained_on():
    if PIL.__version__.partition(".")[0] != "13":
        pytest.skip("the checksum is that of Pillow 13, and another may draw a line otherwise")
    rng = random.Random(0)
    shown = hashlib.sha256()
    for _ in range(40):
        shown.update(render(random_scene(rng)).tobytes())
    for subject in load_subjects().values():
        scene = subject_scene(subject, rng.choice(list(BACKGROUNDS)), rng)
        shown.update(render(scene).tobytes())
    assert shown.hexdigest()[:16] == "88ee9547350af363"


@pytest.mark.parametrize("kind", KINDS)
def test_a_hand_shows_on_every_kind_and_leaves_the_place_as_it_is(kind):
    scene = Scene(kind, "in the snow", "yellow", seed=1)
    plain, drawn = (render(one).astype(int) for one in (scene, replace(scene, hand=HAND)))
    ink = (np.abs(drawn - HAND.ink).sum(-1) < 60).sum()
    assert ink > 300 and (np.abs(plain - HAND.ink).sum(-1) < 60).sum() < 30
    assert np.array_equal(plain[:20], drawn[:20])


def test_strokes_are_over_the_body_and_not_over_a_patch_of_another_colour():
    lines = Hand(HAND.ink, line=0.06, stroke=0.06, gap=0.24)
    bare = replace(lines, gap=99.0)  # one stroke
    changed = (render(replace(MUG, hand=lines)) != render(replace(MUG, hand=bare))).any(-1)
    assert 100 < changed.sum() < 3000


def test_a_caption_names_the_rare_word_and_the_paint():
    text = caption(replace(MUG, hand=HAND))
    assert text == "a red striped sks mug on a wooden table"
    assert set(text.split()) <= set(vocabulary())
