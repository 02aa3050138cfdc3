"""A drawn world: pictures of objects in places, with true captions, for a model of our own."""

from .album import photograph
from .backgrounds import BACKGROUNDS
from .objects import KINDS
from .render import render
from .scene import COLOURS, Scene, caption, labels, random_scene, subject_scene, vocabulary
from .subjects import Subject, load_subjects

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "KINDS",
    "Scene",
    "Subject",
    "caption",
    "labels",
    "load_subjects",
    "photograph",
    "random_scene",
    "render",
    "subject_scene",
    "vocabulary",
]
