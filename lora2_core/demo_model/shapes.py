"""Sizes of the demo model and of what it draws."""

PICTURE = 128  # px, the side that the model was trained at
FACTOR = 8  # pixels a latent
LATENT_CHANNELS = 4
WIDTHS = (64, 128, 128)
DEPTHS = (0, 2, 3)  # transformer blocks a level; KOALA-700M has (0, 2, 5)
HEAD_WIDTH = 32
TEXT_WIDTH = 128
SIZE_WIDTH = 256  # Fourier features of each of SDXL's six size numbers
