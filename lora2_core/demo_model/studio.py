"""Pictures as training examples of the demo model, and prompts as pictures."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..backbones.diffusers_unet import DiffusersUNet
from ..backbones.pictures import to_tensor
from ..diffusion.data import Example
from . import sampling
from .checkpoint import DemoModel
from .shapes import FACTOR, LATENT_CHANNELS, PICTURE


def conditioning(model: DemoModel, prompt: str) -> dict[str, Tensor]:
    """What DiffusersUNet.predict takes for one picture of the model's own size."""
    context, pooled = model.encode_text(prompt)
    sizes = torch.tensor([[PICTURE, PICTURE, 0, 0, PICTURE, PICTURE]]).float()
    return {"context": context, "pooled": pooled, "time_ids": sizes}


def examples(model: DemoModel, pictures: Sequence[tuple[np.ndarray, str]]) -> list[Example]:
    """Pictures with captions as training examples."""
    return [
        Example(model.encode_pictures(to_tensor(picture)), conditioning(model, text))
        for picture, text in pictures
    ]


def draw(
    model: DemoModel,
    prompts: Sequence[str],
    seed: int,
    *,
    steps: int = 25,
    guidance: float = 4.0,
    negative: str = "",
) -> list[Image.Image]:
    """One picture a prompt. Equal seeds start from equal noise, whatever the model learned."""
    generator = torch.Generator().manual_seed(seed)
    side = PICTURE // FACTOR
    noise = torch.randn(len(prompts), LATENT_CHANNELS, side, side, generator=generator)
    latents = sampling.sample(
        DiffusersUNet(model.unet),
        noise,
        _joined([conditioning(model, prompt) for prompt in prompts]),
        _joined([conditioning(model, negative)] * len(prompts)),
        steps=steps,
        guidance=guidance,
    )
    decoded = model.decode(latents).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1)
    return [Image.fromarray(picture) for picture in decoded.numpy()]


def _joined(conditionings: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    names = conditionings[0]
    return {name: torch.cat([c[name] for c in conditionings]) for name in names}
