"""The drawn world: pictures that show what their captions say, and individuals as data."""

import json
import random
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lora2_core.drawn_world import load_subjects, render
from lora2_core.drawn_world.backgrounds import BACKGROUNDS
from lora2_core.drawn_world.objects import KINDS
from lora2_core.drawn_world.patterns import PATTERNS
from lora2_core.drawn_world.scene import (
    COLOURS,
    Scene,
    caption,
    labels,
    random_scene,
    subject_scene,
    vocabulary,
)
from lora2_core.drawn_world.wear import ACCESSORIES, EMBLEMS, EXTRAS
from lora2_core.errors import LoRA2Error

SIZE = 48


def scene(**changes):
    return replace(Scene("mug", "on the beach", "red", seed=3), **changes)


def difference(one, other):
    """Share of the pixels that differ clearly."""
    gap = np.abs(render(one, SIZE).astype(int) - render(other, SIZE).astype(int)).max(-1)
    return (gap > 24).mean()


def test_the_same_scene_gives_the_same_picture():
    some = random_scene(random.Random(1))
    picture = render(some)
    assert picture.shape == (128, 128, 3) and picture.dtype == np.uint8
    assert np.array_equal(picture, render(some))
    assert some == random_scene(random.Random(1)) and some != random_scene(random.Random(2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_kind_shows_each_pattern(kind, pattern):
    plain = scene(kind=kind)
    if pattern == "solid":
        assert difference(plain, scene(kind=kind, colour="blue")) > 0.04
    else:
        second = "blue" if pattern == "two-coloured" else None
        assert difference(plain, scene(kind=kind, pattern=pattern, second=second)) > 0.01


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("accessory", ACCESSORIES)
def test_each_kind_can_wear_each_accessory(kind, accessory):
    assert difference(scene(kind=kind), scene(kind=kind, accessory=accessory)) > 0.008


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_each_background_differs_from_the_others_and_leaves_the_object_visible(background):
    for other in BACKGROUNDS:
        if other != background:
            assert difference(scene(background=background), scene(background=other)) > 0.25
    for colour in COLOURS:
        there = scene(background=background, colour=colour, size=1.0)
        away = replace(there, size=0.01)
        assert difference(there, away) > 0.08


@pytest.mark.parametrize("colour", COLOURS)
def test_a_body_is_nearest_to_its_own_colour(colour):
    picture = render(scene(colour=colour, background="on pink fabric"), 128)
    body = picture[74:100, 52:78].reshape(-1, 3).astype(float)
    mean = np.median(body, axis=0)
    found = min(COLOURS, key=lambda name: np.square(mean - COLOURS[name]).sum())
    assert found == colour


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "a red mug on the beach"),
        ({"colour": "orange"}, "an orange mug on the beach"),
        ({"pattern": "striped"}, "a red striped mug on the beach"),
        ({"accessory": "hat"}, "a red mug wearing a hat on the beach"),
        ({"pattern": "two-coloured", "second": "blue"}, "a red and blue mug on the beach"),
        ({"accessory": "balloon"}, "a red mug with a balloon on the beach"),
    ],
)
def test_captions(changes, text):
    assert caption(scene(**changes)) == text


def test_captions_of_subjects_name_the_rare_word_and_nothing_of_the_look():
    subject = load_subjects()["star robot"]
    there = subject_scene(subject, "in space", random.Random(0))
    assert caption(there) == "a sks robot in space"
    assert caption(there, token="zwx") == "a zwx robot in space"
    worn = subject_scene(subject, "in space", random.Random(0), "hat", colour="red")
    assert caption(worn) == "a red sks robot wearing a hat in space"


def test_random_scenes_cover_the_world_and_stay_in_the_vocabulary():
    rng = random.Random(0)
    scenes = [random_scene(rng) for _ in range(4000)]
    words = set(vocabulary())
    assert all(set(re.findall("[a-z]+", caption(s))) <= words for s in scenes)
    solid = Counter(s.pattern for s in scenes)["solid"] / len(scenes)
    worn = sum(s.accessory is not None for s in scenes) / len(scenes)
    assert 0.45 < solid < 0.55 and 0.17 < worn < 0.23
    for field, known in (("kind", KINDS), ("background", BACKGROUNDS), ("colour", COLOURS)):
        count = Counter(getattr(s, field) for s in scenes)
        assert set(count) == set(known)
        assert min(count.values()) > 0.7 * len(scenes) / len(known)
    assert all((s.second is not None) == (s.pattern == "two-coloured") for s in scenes)
    assert all(s.second != s.colour for s in scenes)


def test_labels_count_within_their_vocabularies():
    there = scene(kind="boot", pattern="dotted", accessory="scarf")
    assert labels(there) == {
        "object": list(KINDS).index("boot"),
        "background": 0,
        "colour": 0,
        "pattern": PATTERNS.index("dotted"),
        "accessory": 1 + ACCESSORIES.index("scarf"),
    }
    subject = load_subjects()["mint mug"]
    found = labels(subject_scene(subject, "in space", random.Random(0)))
    assert found["colour"] == found["pattern"] == -1 and found["accessory"] == 0


def test_bundled_subjects_look_like_nothing_that_a_caption_says():
    subjects = load_subjects()
    assert len(subjects) >= 9
    for subject in subjects.values():
        there = replace(scene(kind=subject.kind, colour=None), subject=subject)
        for colour in COLOURS:
            named = scene(kind=subject.kind, colour=colour, pattern="solid")
            assert difference(there, named) > 0.02
        assert difference(there, replace(there, colour="red")) > 0.01


@pytest.mark.parametrize("emblem", EMBLEMS)
@pytest.mark.parametrize("extra", EXTRAS)
def test_emblems_and_extras_show(emblem, extra, tmp_path):
    look = {"kind": "robot", "colours": ["#404040"]}
    file = tmp_path / "subjects.json"
    more = {"emblem": [emblem, "#ffffff"], "extra": [extra, "#ff00ff"]}
    file.write_text(json.dumps({"plain": look, **{k: look | {k: v} for k, v in more.items()}}))
    plain, *others = load_subjects(file).values()
    base = replace(scene(kind="robot", colour=None), subject=plain)
    for other in others:
        assert difference(base, replace(base, subject=other)) > 0.005


@pytest.mark.parametrize(
    ("look", "message"),
    [
        ({"kind": "horse", "colours": ["#112233"]}, "kind is 'horse'; give one of teapot"),
        ({"kind": "mug", "colours": ["teal"]}, "a colour is 'teal'; give six hex digits"),
        ({"kind": "mug", "colours": ["#1122"]}, "'#1122'"),
        ({"kind": "mug"}, "colours is None; give a list of 1 for solid"),
        ({"kind": "mug", "pattern": "striped", "colours": ["#112233"]}, "a list of 2 for striped"),
        ({"kind": "mug", "pattern": "plaid", "colours": ["#112233"]}, "pattern is 'plaid'"),
        ({"kind": "mug", "colours": ["#112233"], "parts": {"ears": "#112233"}}, "part is 'ears'"),
        ({"kind": "mug", "colours": ["#112233"], "emblem": ["sun", "#112233"]}, "emblem is 'sun'"),
        ({"kind": "mug", "colours": ["#112233"], "extra": "crown"}, "extra is 'crown'"),
        ({"kind": "mug", "colours": ["#112233"], "size": 3}, "key is 'size'"),
        ([], r"is \[\]; give an object"),
    ],
)
def test_a_bad_subject_is_named_with_what_is_allowed(look, message, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"odd one": look}))
    with pytest.raises(LoRA2Error, match=rf"mine\.json: subject 'odd one': .*{message}"):
        load_subjects(file)


def test_a_file_that_is_missing_or_not_json_is_named(tmp_path):
    with pytest.raises(LoRA2Error, match=r"none\.json cannot be read"):
        load_subjects(tmp_path / "none.json")
    (tmp_path / "odd.json").write_text("{")
    with pytest.raises(LoRA2Error, match=r"odd\.json is not JSON"):
        load_subjects(tmp_path / "odd.json")
    (tmp_path / "odd.json").write_text("[]")
    with pytest.raises(LoRA2Error, match="must hold an object"):
        load_subjects(tmp_path / "odd.json")
