"""A drawn world: pictures of objects in places, with true captions, for a model of our own."""

from .album import photograph
from .render import render
from .subjects import load_subjects

__all__ = ["load_subjects", "photograph", "render"]
