"""A run that needs nothing but this package: SDXL's structure at a sixteenth of its width.

The network has random weights, so the run shows that training, ranks and files work; a picture
drawn with it would mean nothing.
"""

from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel

from .backbones.diffusers_unet import DiffusersUNet
from .config import TrainConfig
from .data import Example, batches
from .train import StepInfo, TrainResult, train

_TOKENS, _CONTEXT, _POOLED, _TIME_IDS, _TIME_DIM = 77, 64, 32, 6, 16
_SIZE = 16  # latent side
_IMAGES = 5


def tiny_unet(seed: int) -> UNet2DConditionModel:
    """SDXL's blocks, depths and 560 attention projections, 32 to 128 channels wide."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DConditionModel(
            sample_size=_SIZE,
            block_out_channels=(32, 64, 128),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(1, 2, 4),
            cross_attention_dim=_CONTEXT,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=_TIME_DIM,
            projection_class_embeddings_input_dim=_POOLED + _TIME_IDS * _TIME_DIM,
            norm_num_groups=8,
        )


def examples(seed: int) -> list[Example]:
    """Random latents and conditioning of the tiny network's shapes."""
    generator = torch.Generator().manual_seed(seed)
    time_ids = torch.tensor([[128.0, 128.0, 0.0, 0.0, 128.0, 128.0]])

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    return [
        Example(
            noise(1, 4, _SIZE, _SIZE),
            {
                "context": noise(1, _TOKENS, _CONTEXT),
                "pooled": noise(1, _POOLED),
                "time_ids": time_ids,
            },
        )
        for _ in range(_IMAGES)
    ]


def run(config: TrainConfig, on_step: Callable[[StepInfo], None] | None = None) -> TrainResult:
    """Trains an adapter for the tiny network."""
    order = batches(
        examples(config.seed),
        batch_size=config.batch_size,
        accumulation=config.gradient_accumulation,
        seed=config.seed,
    )
    return train(DiffusersUNet(tiny_unet(config.seed)), order, config, on_step)
