"""Pictures of one individual, to learn it from."""

import random

import numpy as np

from .backgrounds import BACKGROUNDS
from .render import render
from .scene import caption, subject_scene
from .subjects import Subject


def photograph(
    subject: Subject, count: int, seed: int, size: int = 128
) -> list[tuple[np.ndarray, str]]:
    """`count` pictures (uint8 [size, size, 3]) of a subject in different places, with captions."""
    rng = random.Random(seed)
    places = rng.sample(list(BACKGROUNDS), min(count, len(BACKGROUNDS)))
    scenes = [subject_scene(subject, places[i % len(places)], rng) for i in range(count)]
    return [(render(scene, size), caption(scene)) for scene in scenes]
