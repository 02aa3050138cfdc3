"""Draws the training set into a file of raw pictures beside their captions."""

import json
import random
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from ...drawn_world import render
from ...drawn_world.scene import Scene, caption, random_scene
from ..shapes import PICTURE

_CHUNK = 250


def draw(work: Path, count: int, workers: int) -> None:
    """`count` random scenes; pictures that are there already are kept."""
    captions_file = work / "captions.json"
    captions = json.loads(captions_file.read_text()) if captions_file.exists() else []
    with (work / "pictures.u8").open("ab") as file, ProcessPoolExecutor(workers) as pool:
        file.truncate(len(captions) * PICTURE * PICTURE * 3)
        for pictures, texts in pool.map(_chunk, range(len(captions) // _CHUNK, count // _CHUNK)):
            file.write(pictures.tobytes())
            file.flush()
            captions += texts
            captions_file.write_text(json.dumps(captions))
            print(f"{len(captions)} of {count} pictures", end="\r", flush=True)
    print()


def open_pictures(work: Path) -> np.ndarray:
    """[n, 128, 128, 3], uint8, read from disk as needed."""
    flat = np.memmap(work / "pictures.u8", np.uint8, "r")
    return flat[: len(flat) // PICTURE**2 // 3 * PICTURE**2 * 3].reshape(-1, PICTURE, PICTURE, 3)


def read_captions(work: Path) -> list[str]:
    return json.loads((work / "captions.json").read_text())


def scenes_of(count: int) -> list[Scene]:
    """The scenes of the first `count` pictures."""
    return [scene for index in range(count // _CHUNK) for scene in _scenes(index)]


def _scenes(index: int) -> list[Scene]:
    rng = random.Random(index)
    return [random_scene(rng) for _ in range(_CHUNK)]


def _chunk(index: int) -> tuple[np.ndarray, list[str]]:
    scenes = _scenes(index)
    return np.stack([render(s, PICTURE) for s in scenes]), [caption(s) for s in scenes]
