"""The shapes of the demo model: UNet, autoencoder and text encoder."""

from diffusers import AutoencoderTiny, UNet2DConditionModel

PICTURE = 128  # px, the side that the model was trained at
FACTOR = 8  # pixels a latent
LATENT_CHANNELS = 4
WIDTHS = (64, 128, 160)
DEPTHS = (0, 1, 2)  # transformer blocks a level, as KOALA-700M's (0, 2, 5)
HEAD_WIDTH = 32
TEXT_WIDTH = 128
SIZE_WIDTH = 256  # Fourier features of each of SDXL's six size numbers


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
