"""What is measured of an adapter, or of an anchor."""

import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from lora2_core.config import TrainConfig
from lora2_core.demo_model import studio
from lora2_core.demo_model.recipe.autoencoder import to_tensor
from lora2_core.demo_model.shapes import PICTURE
from lora2_core.drawn_world import render
from lora2_core.drawn_world.scene import caption
from lora2_core.drawn_world.subjects import Subject
from lora2_core.files import adapter_file, writing
from lora2_core.files.metadata import training_metadata
from lora2_core.layers.applied import applied

from . import cutting, identity, reader
from .cutting import Factors
from .identity import Portrait
from .lesson import Lesson, denoiser, model

SEEDS = (1000, 2000, 3000)  # of the noise that pictures are drawn from


def losses(lesson: Lesson, factors: Factors) -> dict[str, dict[str, float]]:
    """Probe → loss, the base's, and their ratio less 1; below 0 it has learned."""
    found = {}
    probes = lesson.probes  # made here, or the base's losses would be those of the adapter
    with applied(denoiser(), factors):
        for name, (probe, base) in probes.items():
            loss = probe.loss(denoiser())
            found[name] = {"loss": loss, "base": base, "relative": round(loss / base - 1, 6)}
    return found


def pictures(lesson: Lesson, judges: Path, factors: Factors) -> dict[str, float]:
    """Scores of what the model draws with the adapter; no factors: the base."""
    prompts = [caption(scene) for scene in lesson.asked]
    with applied(denoiser(), factors):
        drawn = [studio.draw(model(), prompts, seed) for seed in SEEDS]
    shown = [np.stack([np.asarray(picture) for picture in row]) for row in drawn]
    return scores(lesson, judges, shown)


def renders(lesson: Lesson, judges: Path, coded: bool) -> dict[str, float]:
    """Scores of real renders of the same scenes; coded: through the autoencoder and back."""
    shown = np.stack([render(scene, PICTURE) for scene in lesson.asked])
    if coded:
        back = model().decode(model().encode_pictures(to_tensor(shown)))
        shown = back.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return scores(lesson, judges, [shown])


def scores(lesson: Lesson, judges: Path, shown: list[np.ndarray]) -> dict[str, float]:
    """Means over the seeds; recoloured pictures count for the colour and the place alone."""
    own = [index for index, scene in enumerate(lesson.asked) if scene.colour is None]
    rows = [
        _portrait(judges, lesson.subject, lesson.seed).read(row[own])
        | reader.read(_reader(judges), row, lesson.asked)
        for row in shown
    ]
    return {name: round(sum(row[name] for row in rows) / len(rows), 4) for name in rows[0]}


def size(factors: Factors, config: TrainConfig, nus: dict[str, float | None]) -> dict[str, int]:
    """parameters, and the bytes of the file in fp16 with its header."""
    ranks = {name: (nus.get(name), rank) for name, rank in cutting.ranks(factors).items()}
    metadata = training_metadata(method=config.method, settings=vars(config), ranks=ranks)
    state = adapter_file.pack(factors, metadata=metadata)
    with tempfile.TemporaryDirectory() as folder:
        file = writing.write(state, Path(folder) / "a.safetensors", precision="fp16")
        return {"parameters": cutting.parameters(factors), "file_bytes": file.stat().st_size}


@lru_cache(maxsize=1)
def _reader(judges: Path):
    return reader.load(judges)


@lru_cache(maxsize=1)
def _identity(judges: Path):
    return identity.load(judges)


@lru_cache(maxsize=2)
def _portrait(judges: Path, subject: Subject, seed: int) -> Portrait:
    shown = np.stack([render(scene, PICTURE) for scene in Lesson(subject, seed).unseen_renders])
    return Portrait(_identity(judges), subject, shown)
