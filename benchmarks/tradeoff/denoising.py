"""The primary metric: denoising loss where scenes, noise and times are fixed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora2_core.backbones.diffusers_unet import DiffusersUNet
from lora2_core.demo_model import studio
from lora2_core.demo_model.checkpoint import DemoModel
from lora2_core.demo_model.shapes import PICTURE
from lora2_core.diffusion.data import Batch, batches
from lora2_core.drawn_world import render
from lora2_core.drawn_world.scene import Scene, caption

_BATCH = 64


@dataclass(frozen=True)
class Probe:
    """batch: n scenes encoded. noise [n, k, c, h, w] and times [n, k]: what each is seen through.

    Over all n·k the times are the midpoints of as many even strata, so that no part of the
    schedule is left to chance.
    """

    batch: Batch
    noise: Tensor
    times: Tensor

    @torch.no_grad()
    def loss(self, denoiser: DiffusersUNet) -> float:
        """Mean squared error of the prediction over scenes and times."""
        count, passes = self.times.shape
        owner = torch.arange(count).repeat_interleave(passes)
        noise, times = self.noise.flatten(0, 1), self.times.flatten()
        total = 0.0
        for part in torch.arange(count * passes).split(_BATCH):
            scenes = owner[part]
            noisy, target = denoiser.corrupt(self.batch.latents[scenes], noise[part], times[part])
            told = {name: value[scenes] for name, value in self.batch.conditioning.items()}
            found = denoiser.predict(noisy, times[part], told)
            total += (found - target).square().mean((1, 2, 3)).sum().item()
        return total / (count * passes)


def probe(model: DemoModel, scenes: Sequence[Scene], passes: int, seed: int) -> Probe:
    """Each scene at `passes` times; equal arguments give equal noise and times."""
    shots = [(render(scene, PICTURE), caption(scene)) for scene in scenes]
    encoded = studio.examples(model, shots)
    batch = next(batches(encoded, batch_size=len(encoded), accumulation=1, seed=seed))[0]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(scenes), passes, *batch.latents.shape[1:], generator=generator)
    return Probe(batch, noise, stratified(len(scenes), passes, DiffusersUNet.timesteps, seed))


def stratified(count: int, passes: int, timesteps: int, seed: int) -> Tensor:
    """[count, passes], int64: the midpoints of count·passes strata of 0..timesteps − 1.

    Each row has one time of each of `passes` equal parts of the schedule.
    """
    generator = torch.Generator().manual_seed(seed)
    within = torch.stack([torch.randperm(count, generator=generator) for _ in range(passes)], 1)
    strata = torch.arange(passes) * count + within
    return ((strata + 0.5) * timesteps / (count * passes)).long()
