"""Shared by the tests of benchmarks/tradeoff: lessons of a few pictures and steps."""

from functools import partial

import pytest
import torch
from tradeoff import cutting, identity, lesson, measure, pictures, tasks, training

from lora2_core.drawn_world import load_subjects

torch.set_num_threads(1)  # the tensors here are small


@pytest.fixture
def subjects():
    return load_subjects()


@pytest.fixture
def tiny(monkeypatch):
    """Probes of two scenes at two times, runs of a few steps, effects of two passes, fewer cuts."""
    for name in ("ALONE", "EACH", "GENERAL"):
        monkeypatch.setattr(lesson, name, (2, 2))
    monkeypatch.setattr(lesson, "PICTURES", 2)
    monkeypatch.setattr(lesson, "STYLE_PICTURES", 2)
    monkeypatch.setattr(pictures, "_RENDERS", 2)
    monkeypatch.setattr(pictures, "PROMPTS", 1)
    monkeypatch.setattr(identity, "_PANEL", 1)
    monkeypatch.setattr(tasks, "STEPS", {1: 4, 3: 4})
    monkeypatch.setattr(tasks, "STYLE_STEPS", 4)
    monkeypatch.setattr(training, "PASSES", 2)
    monkeypatch.setattr(cutting, "SHARES", (0.999,))
    monkeypatch.setattr(measure, "STRENGTHS", (0.85,))
    monkeypatch.setattr(pictures.studio, "draw", partial(pictures.studio.draw, steps=2))
    caches = (lesson.lesson, lesson.general, pictures._portraits)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()
