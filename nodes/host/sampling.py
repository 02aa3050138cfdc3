"""Pictures by the host's own sampler, with a model that is in training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.sd
import numpy as np
import torch
from PIL import Image

from .model import HostDenoiser, latent_channels
from .text import HostWithText

SAMPLERS = comfy.samplers.KSampler.SAMPLERS
SCHEDULERS = comfy.samplers.KSampler.SCHEDULERS


@dataclass(frozen=True)
class Sampling:
    """What the host's sampler takes beside a model, and the VAE that decodes.

    pairs: positive and negative CONDITIONING of each picture. words: the texts that each was made
    of, for text encoders that change; None where it stays as it is. width, height: px.
    """

    vae: comfy.sd.VAE
    pairs: Sequence[tuple[list, list]]
    words: Sequence[tuple[str | None, str | None]]
    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    width: int
    height: int


def zeroed(conditioning: list) -> list:
    """The conditioning with zeros for words: SDXL's own unconditional one."""
    return [
        [
            torch.zeros_like(context),
            more | {k: torch.zeros_like(v) for k, v in more.items() if k == "pooled_output"},
        ]
        for context, more in conditioning
    ]


def painter(
    denoiser: HostDenoiser | HostWithText, sampling: Sampling
) -> Callable[[], list[Image.Image]]:
    """Draws the pictures with a model that is in training, as the host would with the adapter."""

    def spoken(conditioning: list, text: str | None) -> list:
        if text is None or not isinstance(denoiser, HostWithText):
            return conditioning
        return denoiser.spoken(text, conditioning)

    def paint() -> list[Image.Image]:
        pairs = [
            tuple(map(spoken, pair, words))
            for pair, words in zip(sampling.pairs, sampling.words, strict=True)
        ]
        with denoiser.loan.given_back() as patcher:
            return [_sampled(patcher, sampling, *pair) for pair in pairs]

    return paint


def _sampled(patcher, sampling: Sampling, positive: list, negative: list) -> Image.Image:
    shape = 1, latent_channels(patcher), sampling.height // 8, sampling.width // 8
    empty = torch.zeros(shape, device=comfy.model_management.intermediate_device())
    samples = comfy.sample.sample(
        patcher,
        comfy.sample.prepare_noise(empty, sampling.seed),
        sampling.steps,
        sampling.cfg,
        sampling.sampler_name,
        sampling.scheduler,
        positive,
        negative,
        empty,
        callback=_stop_if_cancelled,
        disable_pbar=True,
        seed=sampling.seed,
    )
    pixels = sampling.vae.decode(samples)[0].float().mul(255).clamp(0, 255)
    return Image.fromarray(pixels.cpu().numpy().astype(np.uint8))


def _stop_if_cancelled(*_) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()
