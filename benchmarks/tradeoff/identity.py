"""A network that tells individuals apart, trained on the renderer."""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora2_core.demo_model.recipe.autoencoder import to_tensor
from lora2_core.demo_model.recipe.features import Features
from lora2_core.drawn_world.subjects import Subject

from . import judges
from .individuals import FAMILY, VIEWS, family_views, individual, twin, views

_FAMILIES = 4  # a batch
_RATE = 2e-3
_TEMPERATURE = 0.1
_NOISE = 0.05  # of a range of 2: pictures of a denoiser are not as clean as renders
_HELD_OUT = 10**8  # families from this seed on are not trained on
_PANEL = 7  # strangers, and as many twins, that a picture may be taken for


class Identity(nn.Module):
    """Pictures [b, 3, 128, 128] in −1..1 to unit vectors [b, 64]; near means: the same one."""

    def __init__(self):
        super().__init__()
        self.features = Features()
        self.out = nn.Linear(Features.width, 64)

    def forward(self, pictures: Tensor) -> Tensor:
        return F.normalize(self.out(self.features(pictures)), dim=-1)


def contrastive(found: Tensor, owner: Tensor, temperature: float = _TEMPERATURE) -> Tensor:
    """−log of the share of a picture's neighbours that show the same individual, the mean over
    these [Khosla et al. 2020, L_out]; found: [b, d] unit vectors, owner: [b]."""
    same = owner[:, None] == owner[None]
    same.fill_diagonal_(False)
    logits = (found @ found.t() / temperature).fill_diagonal_(-torch.inf)
    share = logits.log_softmax(1).masked_fill(~same, 0.0)
    return -(share.sum(1) / same.sum(1)).mean()


def prepare(folder: Path, batches: int, jobs: int) -> dict[str, float]:
    """Trains it unless the folder has it; returns how it does on individuals it has not seen."""
    if not (folder / judges.IDENTITY).exists():
        judges.save(_train(batches, jobs), folder / judges.IDENTITY)
    return held_out(load(folder))


def load(folder: Path) -> Identity:
    return judges.load(Identity, folder / judges.IDENTITY)


@torch.no_grad()
def held_out(network: Identity, families: int = 40) -> dict[str, float]:
    """Known by half of its views, is the other half nearest to it? Among all, and in its family."""
    pictures = np.stack([family_views(_HELD_OUT + index) for index in range(families)])
    found = network(to_tensor(pictures.reshape(-1, *pictures.shape[3:])))
    found = found.view(families * FAMILY, VIEWS, -1)
    known = F.normalize(found[:, : VIEWS // 2].mean(1), dim=-1)
    asked = found[:, VIEWS // 2 :]
    near = torch.einsum("avd,bd->avb", asked, known)
    truth = torch.arange(len(found))[:, None]
    own = (truth // FAMILY)[..., None] == torch.arange(len(found)) // FAMILY
    within = near.masked_fill(~own, -torch.inf)
    return {
        f"right among {len(found)}": _share(near.argmax(-1) == truth),
        f"right among {FAMILY} of its kind, a twin in it": _share(within.argmax(-1) == truth),
    }


class Portrait:
    """One subject to be known again: its own renders beside strangers and twins of its kind, and
    beside its company.

    renders, and each of company: uint8 [n, 128, 128, 3] of one subject. coded: what renders have
    gone through before they are shown to it; strangers and twins go through it, too.
    """

    def __init__(
        self,
        network: Identity,
        subject: Subject,
        renders: np.ndarray,
        company: Sequence[np.ndarray] = (),
        coded: Callable[[np.ndarray], np.ndarray] = lambda pictures: pictures,
    ):
        rng = random.Random(_HELD_OUT)
        others = [individual(rng, subject.kind) for _ in range(_PANEL)]
        others += [twin(subject, rng) for _ in range(_PANEL)]
        self._network = network
        self._panel = self._known([renders, *(coded(views(other, rng)) for other in others)])
        self._company = self._known([renders, *company])

    @torch.no_grad()
    def read(self, pictures: np.ndarray) -> dict[str, float]:
        """likeness: mean cosine to the subject. identified: share nearest to it of the panel.
        confused: share nearer to another of the company."""
        found = self._network(to_tensor(pictures))
        near = found @ self._panel.t()
        return {
            "likeness": round(near[:, 0].mean().item(), 4),
            "identified": _share(near.argmax(1) == 0),
            "confused": _share((found @ self._company.t()).argmax(1) != 0),
        }

    @torch.no_grad()
    def _known(self, seen: Sequence[np.ndarray]) -> Tensor:
        means = torch.stack([self._network(to_tensor(pictures)).mean(0) for pictures in seen])
        return F.normalize(means, dim=-1)


def _train(batches: int, jobs: int) -> Identity:
    torch.manual_seed(0)
    network = Identity()
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, batches)
    owner = torch.arange(_FAMILIES * FAMILY).repeat_interleave(VIEWS)
    seeds = range(batches * _FAMILIES)
    for step, pictures in enumerate(_drawn(seeds, jobs)):
        batch = to_tensor(pictures)
        loss = contrastive(network(batch + _NOISE * torch.randn_like(batch)), owner)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            print(f"individuals {step} of {batches}, loss {loss.item():.3f}", flush=True)
    return network.eval().requires_grad_(False)


def _drawn(seeds: Sequence[int], jobs: int) -> Iterator[np.ndarray]:
    """Batches [b, 128, 128, 3] of _FAMILIES families each."""
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        waiting = []
        for pictures in pool.map(family_views, seeds, chunksize=_FAMILIES):
            waiting.append(pictures.reshape(-1, *pictures.shape[2:]))
            if len(waiting) == _FAMILIES:
                yield np.concatenate(waiting)
                waiting = []


def _share(right: Tensor) -> float:
    return round(right.float().mean().item(), 4)
