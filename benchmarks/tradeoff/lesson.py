"""What one run learns from and is asked: a task, and the places that a seed gives it."""

import random
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache

import numpy as np

from lora2_core.backbones.diffusers_unet import DiffusersUNet
from lora2_core.demo_model import bundled, checkpoint, studio
from lora2_core.demo_model.checkpoint import DemoModel
from lora2_core.demo_model.shapes import PICTURE
from lora2_core.diffusion.data import Example
from lora2_core.drawn_world import photograph, render
from lora2_core.drawn_world.backgrounds import BACKGROUNDS
from lora2_core.drawn_world.scene import Scene, caption, random_scene, subject_scene
from lora2_core.drawn_world.subjects import Subject

from .denoising import Probe, probe
from .tasks import Task

PICTURES = 5  # learned from, of each subject
STYLE_PICTURES = 20  # of a hand
# scenes, times of each: of what is learned alone, of each of several subjects, and of the rest
ALONE, EACH, GENERAL = (12, 8), (8, 4), (40, 4)
_UNSEEN = 10**7  # seeds from here on are in no training set


@lru_cache(maxsize=1)
def model() -> DemoModel:
    return checkpoint.load(bundled.weights())


@lru_cache(maxsize=1)
def denoiser() -> DiffusersUNet:
    return DiffusersUNet(model().unet)


@cache
def lesson(task: Task, seed: int) -> "Lesson":
    """One of each in a process, so that the base is measured once."""
    return Lesson(task, seed)


@lru_cache(maxsize=1)
def general() -> tuple[Probe, float]:
    """Scenes that no task is about, and the base's loss on them."""
    rng = random.Random(_UNSEEN)
    found = probe(model(), [random_scene(rng) for _ in range(GENERAL[0])], GENERAL[1], _UNSEEN)
    return found, found.loss(denoiser())


@dataclass(frozen=True)
class Lesson:
    """One task at one seed; the seed chooses places, and noise and order of the training."""

    task: Task
    seed: int

    @cached_property
    def examples(self) -> list[Example]:
        """To train on."""
        shots = [shot for one in self.task.subjects for shot in self._album(one)]
        if self.task.hand is not None:
            scenes = self._in_the_hand(random.Random(self.seed), STYLE_PICTURES)
            shots += [(render(scene, PICTURE), caption(scene)) for scene in scenes]
        return studio.examples(model(), shots)

    @cached_property
    def probes(self) -> list[tuple[Probe, float]]:
        """(probe, loss of the base) of each subject, or of the hand, in unseen scenes."""
        scenes, passes = EACH if len(self.task.subjects) > 1 else ALONE
        if self.task.hand is not None:
            asked = [self._in_the_hand(random.Random(_UNSEEN + self.seed), scenes)]
        else:
            asked = [self.unseen(one, scenes) for one in self.task.subjects]
        found = [probe(model(), one, passes, _UNSEEN + self.seed) for one in asked]
        return [(one, one.loss(denoiser())) for one in found]

    def unseen(self, subject: Subject, count: int) -> list[Scene]:
        """The subject in places that it was not learned in."""
        seen = " ".join(text for _, text in self._album(subject))
        places = [place for place in BACKGROUNDS if place not in seen]
        rng = random.Random(_UNSEEN + self.seed)
        return [subject_scene(subject, places[index % len(places)], rng) for index in range(count)]

    def _album(self, subject: Subject) -> list[tuple[np.ndarray, str]]:
        return photograph(subject, PICTURES, self.seed)

    def _in_the_hand(self, rng: random.Random, count: int) -> list[Scene]:
        return [replace(random_scene(rng), hand=self.task.hand) for _ in range(count)]
