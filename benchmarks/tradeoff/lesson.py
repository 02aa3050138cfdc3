"""What one run learns from and is asked: a subject, and the places that a seed gives it."""

import random
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from lora2_core.backbones.diffusers_unet import DiffusersUNet
from lora2_core.demo_model import bundled, checkpoint, studio
from lora2_core.demo_model.checkpoint import DemoModel
from lora2_core.diffusion.data import Example
from lora2_core.drawn_world import photograph
from lora2_core.drawn_world.backgrounds import BACKGROUNDS
from lora2_core.drawn_world.scene import COLOURS, Scene, random_scene, subject_scene
from lora2_core.drawn_world.subjects import Subject
from lora2_core.drawn_world.wear import ACCESSORIES

from .denoising import Probe, probe

PICTURES = 5  # learned from
_UNSEEN = 10**7  # seeds from here on are in no training set
_SUBJECT, _GENERAL, _KIND = (16, 8), (64, 4), (32, 4)  # scenes, times of each


@lru_cache(maxsize=1)
def model() -> DemoModel:
    return checkpoint.load(bundled.weights())


@lru_cache(maxsize=1)
def denoiser() -> DiffusersUNet:
    return DiffusersUNet(model().unet)


@lru_cache(maxsize=1)
def _general() -> tuple[Probe, float]:
    rng = random.Random(_UNSEEN)
    found = probe(model(), [random_scene(rng) for _ in range(_GENERAL[0])], _GENERAL[1], _UNSEEN)
    return found, found.loss(denoiser())


@lru_cache(maxsize=16)
def _kind(kind: str) -> tuple[Probe, float]:
    rng = random.Random(_UNSEEN + 1)
    scenes = [replace(random_scene(rng), kind=kind) for _ in range(_KIND[0])]
    found = probe(model(), scenes, _KIND[1], _UNSEEN + 1)
    return found, found.loss(denoiser())


@dataclass(frozen=True)
class Lesson:
    """One subject at one seed; the seed chooses places, and noise and order of the training."""

    subject: Subject
    seed: int

    @cached_property
    def _photographs(self) -> list:
        return photograph(self.subject, PICTURES, self.seed)

    @cached_property
    def examples(self) -> list[Example]:
        """To train on."""
        return studio.examples(model(), self._photographs)

    @cached_property
    def unseen_places(self) -> list[str]:
        seen = " ".join(text for _, text in self._photographs)
        return [place for place in BACKGROUNDS if place not in seen]

    @cached_property
    def unseen_renders(self) -> list[Scene]:
        """The subject as it is, in places that it was not learned in."""
        rng = random.Random(_UNSEEN + self.seed)
        places = self.unseen_places
        return [
            subject_scene(self.subject, places[index % len(places)], rng)
            for index in range(_SUBJECT[0])
        ]

    @cached_property
    def probes(self) -> dict[str, tuple[Probe, float]]:
        """Name → (probe, loss of the base). subject: fidelity. general: forgetting. kind: of the
        subject's own kind without its rare word, what drifts first."""
        own = probe(model(), self.unseen_renders, _SUBJECT[1], _UNSEEN + self.seed)
        return {
            "subject": (own, own.loss(denoiser())),
            "general": _general(),
            "kind": _kind(self.subject.kind),
        }

    @cached_property
    def asked(self) -> list[Scene]:
        """What is drawn, in unseen places: two as the subject is, two wearing, two recoloured."""
        rng = random.Random(_UNSEEN + self.seed)
        places = rng.sample(self.unseen_places, 6)
        plain = [subject_scene(self.subject, place, rng) for place in places[:2]]
        worn = [
            subject_scene(self.subject, place, rng, accessory=thing)
            for place, thing in zip(places[2:4], rng.sample(ACCESSORIES, 2), strict=True)
        ]
        painted = [
            subject_scene(self.subject, place, rng, colour=colour)
            for place, colour in zip(places[4:], rng.sample(list(COLOURS), 2), strict=True)
        ]
        return [*plain, *worn, *painted]
