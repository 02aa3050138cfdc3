"""The forward pass of a training step, and what watches the network during it."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from ..config import TrainConfig
from ..diffusion.data import Batch
from ..diffusion.denoiser import Denoiser
from ..diffusion.loss import prediction_loss
from ..diffusion.noise import draw_noise
from ..diffusion.timesteps import draw_levels
from ..diffusion.weighting import min_snr_weights
from ..layers.inject import cross_attention_layers, file_order
from ..methods import method_of
from .checkpointing import blocks_checkpointed
from .entropy import EntropyProbe

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def entropy_probe(denoiser: Denoiser, config: TrainConfig) -> EntropyProbe | None:
    """Of all cross-attention layers in the file's order; None where the loss has no such term."""
    if not method_of(config).uses_entropy or config.lambda_e == 0:
        return None
    found = cross_attention_layers(denoiser.network)
    names = sorted(found, key=lambda name: file_order(denoiser.module_name(name)))
    layers = [found[name] for name in names]
    return EntropyProbe(layers, config.entropy_queries, config.seed) if layers else None


@contextmanager
def watched(denoiser: Denoiser, config: TrainConfig, probe: EntropyProbe | None) -> Iterator[None]:
    """The probe, and the recomputation of activations, as training needs them, within the block."""
    seen = nullcontext() if probe is None else probe.attached()
    with seen, blocks_checkpointed(denoiser.blocks, probe, config.gradient_checkpointing):
        yield


def forward(
    denoiser: Denoiser,
    batch: Batch,
    config: TrainConfig,
    probe: EntropyProbe | None,
    generator: torch.Generator,
    weights: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """(prediction loss, mean entropy or None) of one batch at random noise levels.

    weights: of the levels (level_weights); None for even ones.
    """
    latents = batch.latents.to(denoiser.device)
    noise = draw_noise(batch.latents.shape, config.noise_offset, generator).to(latents)
    t = draw_levels(len(latents), denoiser.timesteps, weights, generator).to(latents.device)
    noisy, target = denoiser.corrupt(latents, noise, t)
    snr_weights = None
    if config.min_snr_gamma > 0:
        snr_weights = min_snr_weights(denoiser.snr(t), config.min_snr_gamma, denoiser.predicts_v)
    if probe is not None:
        probe.begin()
    conditioning = {name: c.to(denoiser.device) for name, c in batch.conditioning.items()}
    with _computing_in(DTYPES[config.dtype], denoiser):
        prediction = denoiser.predict(noisy, t, conditioning)
    loss = prediction_loss(prediction, target, snr_weights)
    return loss, None if probe is None else probe.mean()


def _computing_in(dtype: torch.dtype, denoiser: Denoiser):
    """Autocast, where it is of use: every norm then hands fp32 on, which each layer behind it casts
    for itself.
    """
    if dtype in (torch.float32, denoiser.dtype):
        return nullcontext()
    return torch.autocast(denoiser.device.type, dtype)
