"""Individuals at random, and twins that differ in one thing: whom a judge must tell apart."""

import colorsys
import random
from dataclasses import replace

import numpy as np

from lora2_core.demo_model.shapes import PICTURE
from lora2_core.drawn_world import render
from lora2_core.drawn_world.backgrounds import BACKGROUNDS
from lora2_core.drawn_world.objects import KINDS
from lora2_core.drawn_world.patterns import PATTERNS
from lora2_core.drawn_world.pen import Colour
from lora2_core.drawn_world.scene import subject_scene
from lora2_core.drawn_world.subjects import Subject
from lora2_core.drawn_world.wear import ACCESSORIES, EMBLEMS, EXTRAS

FAMILY = 4  # of one kind: two at random, and a twin of each
VIEWS = 4


def individual(rng: random.Random, kind: str) -> Subject:
    """Of that kind; everything else at random."""
    return Subject(
        name="",
        kind=kind,
        pattern=rng.choice(PATTERNS),
        colours=(_colour(rng), _colour(rng)),
        parts=tuple((part, _colour(rng)) for part in KINDS[kind].parts if rng.random() < 0.6),
        emblem=(rng.choice(list(EMBLEMS)), _colour(rng)) if rng.random() < 0.5 else None,
        extra=(rng.choice(list(EXTRAS)), _colour(rng)) if rng.random() < 0.4 else None,
    )


def twin(subject: Subject, rng: random.Random) -> Subject:
    """The same but for its main colour, its pattern, one part, its emblem or its extra."""
    other = individual(rng, subject.kind)
    changes = [
        {"colours": (other.colours[0], subject.colours[1])},
        {"pattern": rng.choice([name for name in PATTERNS if name != subject.pattern])},
        {"emblem": None if subject.emblem else (rng.choice(list(EMBLEMS)), _colour(rng))},
        {"extra": None if subject.extra else (rng.choice(list(EXTRAS)), _colour(rng))},
    ]
    if KINDS[subject.kind].parts:
        part = rng.choice(KINDS[subject.kind].parts)
        kept = tuple(found for found in subject.parts if found[0] != part)
        changes.append({"parts": (*kept, (part, _colour(rng)))})
    return replace(subject, **rng.choice(changes))


def family(seed: int) -> list[Subject]:
    """FAMILY individuals of one kind."""
    rng = random.Random(seed)
    kind = rng.choice(list(KINDS))
    two = [individual(rng, kind) for _ in range(FAMILY // 2)]
    return [*two, *(twin(one, rng) for one in two)]


def views(subject: Subject, rng: random.Random, count: int = VIEWS) -> np.ndarray:
    """uint8 [count, 128, 128, 3]: anywhere, a fifth of them wearing something."""
    scenes = [
        subject_scene(
            subject,
            rng.choice(list(BACKGROUNDS)),
            rng,
            accessory=rng.choice(ACCESSORIES) if rng.random() < 0.2 else None,
        )
        for _ in range(count)
    ]
    return np.stack([render(scene, PICTURE) for scene in scenes])


def family_views(seed: int) -> np.ndarray:
    """uint8 [FAMILY, VIEWS, 128, 128, 3]."""
    rng = random.Random(seed)
    return np.stack([views(one, rng) for one in family(seed)])


def _colour(rng: random.Random) -> Colour:
    """Any hue; pale and dark ones too."""
    parts = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 1), rng.uniform(0.25, 1))
    return tuple(round(255 * part) for part in parts)
