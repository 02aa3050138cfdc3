"""A classifier of drawn pictures, and what it says of the model's own.

It learns from the training pictures and is tested on renders that it has not seen; only a judge
that reads those is asked about pictures that the model drew.
"""

import json
import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...drawn_world import render
from ...drawn_world.backgrounds import BACKGROUNDS
from ...drawn_world.objects import KINDS
from ...drawn_world.patterns import PATTERNS
from ...drawn_world.scene import COLOURS, caption, labels, random_scene
from ...drawn_world.wear import ACCESSORIES
from .. import checkpoint, studio
from ..shapes import PICTURE
from . import trunk
from .autoencoder import to_tensor
from .features import Features
from .pictures import open_pictures, scenes_of

CLASSES = {
    "object": len(KINDS),
    "background": len(BACKGROUNDS),
    "colour": len(COLOURS),
    "pattern": len(PATTERNS),
    "accessory": 1 + len(ACCESSORIES),
}
_BATCH = 64
_PASSES = 3
_UNSEEN = 10**6  # seeds from here on are in no training set


class Judge(nn.Module):
    """Pictures [b, 3, 128, 128] in −1..1 to the logits of every attribute."""

    def __init__(self):
        super().__init__()
        self.features = Features()
        self.heads = nn.ModuleDict({k: nn.Linear(Features.width, n) for k, n in CLASSES.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        found = self.features(pictures)
        return {name: head(found) for name, head in self.heads.items()}


def train(work: Path) -> None:
    """Writes judge.pt."""
    torch.manual_seed(0)
    pictures = open_pictures(work)
    truth = _truth(scenes_of(len(pictures)))
    judge = Judge()
    steps = _PASSES * (len(pictures) // _BATCH)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    order = trunk.shuffled(len(pictures), _BATCH)
    for step in range(steps):
        chosen = next(order).sort().values
        logits = judge(to_tensor(pictures[chosen.numpy()]))
        loss = sum(F.cross_entropy(logits[name], truth[name][chosen]) for name in CLASSES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"judge {step} of {steps}, loss {loss.item():.3f}", flush=True)
    torch.save(judge.state_dict(), work / "judge.pt")


@torch.no_grad()
def gate(work: Path, file: Path, count: int) -> dict[str, dict[str, float]]:
    """Share of right attributes in unseen renders and in pictures drawn from unseen captions."""
    judge = Judge().eval()
    judge.load_state_dict(torch.load(work / "judge.pt", weights_only=True))
    rng = random.Random(_UNSEEN)
    scenes = [random_scene(rng) for _ in range(count)]
    truth = _truth(scenes)
    renders = to_tensor(np.stack([render(scene, PICTURE) for scene in scenes]))
    model = checkpoint.load(file)
    drawn = []
    for start in range(0, count, 50):
        prompts = [caption(scene) for scene in scenes[start : start + 50]]
        drawn += studio.draw(model, prompts, start)
    pictures = to_tensor(np.stack([np.asarray(picture) for picture in drawn]))
    found = {"renders": _right(judge(renders), truth), "drawn": _right(judge(pictures), truth)}
    print(json.dumps(found, indent=2))
    return found


def _truth(scenes) -> dict[str, Tensor]:
    listed = [labels(scene) for scene in scenes]
    return {name: torch.tensor([found[name] for found in listed]) for name in CLASSES}


def _right(logits: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    return {
        name: round((logits[name].argmax(1) == truth[name]).float().mean().item(), 4)
        for name in CLASSES
    }
