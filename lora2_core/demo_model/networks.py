"""The demo model's UNet and autoencoder, as diffusers has them."""

from diffusers import AutoencoderTiny, UNet2DConditionModel

from .shapes import (
    DEPTHS,
    FACTOR,
    HEAD_WIDTH,
    LATENT_CHANNELS,
    PICTURE,
    SIZE_WIDTH,
    TEXT_WIDTH,
    WIDTHS,
)


def build_unet() -> UNet2DConditionModel:
    """The denoiser with fresh weights; takes latents [b, 4, h, w]."""
    return UNet2DConditionModel(
        sample_size=PICTURE // FACTOR,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        # diffusers wants a depth for the level without attention too, and does not use it
        transformer_layers_per_block=tuple(max(1, depth) for depth in DEPTHS),
        attention_head_dim=tuple(width // HEAD_WIDTH for width in WIDTHS),  # means: heads
        cross_attention_dim=TEXT_WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=SIZE_WIDTH,
        projection_class_embeddings_input_dim=TEXT_WIDTH + 6 * SIZE_WIDTH,
    )


def build_autoencoder() -> AutoencoderTiny:
    """TAESD's encoder and decoder with fresh weights; pictures [b, 3, h, w] in −1..1."""
    return AutoencoderTiny(latent_channels=LATENT_CHANNELS, scaling_factor=1.0)
