"""Whether a picture shows what was asked for, read by the recipe's classifier."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lora2_core.demo_model.recipe import judge
from lora2_core.demo_model.recipe import pictures as training_set
from lora2_core.demo_model.recipe.autoencoder import to_tensor
from lora2_core.demo_model.recipe.judge import Judge
from lora2_core.demo_model.shapes import PICTURE
from lora2_core.drawn_world import render
from lora2_core.drawn_world.scene import COLOURS, Scene, labels, random_scene
from lora2_core.errors import LoRA2Error

from . import judges

_HELD_OUT = 10**8


def prepare(folder: Path, work: Path | None, count: int, jobs: int) -> dict[str, float]:
    """Trains it unless the folder has it; returns its shares right on scenes it has not seen.

    work: of the recipe, for its pictures and its judge; what is not there is made, of `count`
    pictures. Raises LoRA2Error if there is something to train and no such folder.
    """
    if not (folder / judges.READER).exists():
        if work is None:
            raise LoRA2Error("to train the reader takes a folder for its pictures; give --work DIR")
        work.mkdir(parents=True, exist_ok=True)
        if not (work / "judge.pt").exists():
            if not (work / "captions.json").exists():
                training_set.draw(work, count, jobs)
            judge.train(work)
        network = Judge()
        network.load_state_dict(torch.load(work / "judge.pt", weights_only=True))
        judges.save(network, folder / judges.READER)
    rng = random.Random(_HELD_OUT)
    scenes = [random_scene(rng) for _ in range(200)]
    shown = np.stack([render(scene, PICTURE) for scene in scenes])
    return _right(load(folder), shown, [labels(scene) for scene in scenes])


def load(folder: Path) -> Judge:
    return judges.load(Judge, folder / judges.READER)


def read(network: Judge, pictures: np.ndarray, scenes: Sequence[Scene]) -> dict[str, float]:
    """Shares right of what was asked; uint8 [n, 128, 128, 3] beside the n scenes.

    background: of all. accessory and colour: where one was asked for.
    """
    return _right(network, pictures, [_asked(scene) for scene in scenes])


def _asked(scene: Scene) -> dict[str, int]:
    wanted = {"background": labels(scene)["background"]}
    if scene.accessory is not None:
        wanted["accessory"] = labels(scene)["accessory"]
    if scene.colour is not None:
        wanted["colour"] = list(COLOURS).index(scene.colour)
    return wanted


@torch.no_grad()
def _right(
    network: Judge, pictures: np.ndarray, wanted: Sequence[dict[str, int]]
) -> dict[str, float]:
    logits = network(to_tensor(pictures))
    found: dict[str, list[bool]] = {}
    for index, asked in enumerate(wanted):
        for name, truth in asked.items():
            found.setdefault(name, []).append(int(logits[name][index].argmax()) == truth)
    return {name: round(sum(right) / len(right), 4) for name, right in found.items()}
