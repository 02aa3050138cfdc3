"""The bundled model as something to train on, like any other checkpoint."""

from collections.abc import Callable

import numpy as np
from PIL import Image
from torch import Tensor

from ..backbones.diffusers_unet import DiffusersUNet
from ..backbones.drawing import Drawing
from ..diffusion.data import Example
from . import bundled, checkpoint, studio


class DemoBackbone:
    """Meets what backbones.pipeline.PipelineBackbone meets."""

    def __init__(self):
        self._model = checkpoint.load(bundled.weights())
        self.denoiser = DiffusersUNet(self._model.unet)
        self.device = self.denoiser.device
        self.channels: int = self._model.unet.config.in_channels

    def example(self, picture: Image.Image, caption: str) -> Example:
        """A square RGB picture and its caption, encoded."""
        return studio.examples(self._model, [(np.array(picture), caption)])[0]

    def conditioning(self, size: tuple[int, int], caption: str) -> dict[str, Tensor]:
        """Of a picture; the model knows one size alone."""
        return studio.conditioning(self._model, caption)

    def painter(self, drawing: Drawing) -> Callable[[], list[Image.Image]]:
        """Draws with the UNet as it is at each call, always in the model's own size."""

        def paint() -> list[Image.Image]:
            return studio.draw(
                self._model,
                drawing.prompts,
                drawing.seed,
                steps=drawing.steps,
                guidance=drawing.guidance,
                negative=drawing.negative or "",
            )

        return paint

    def forget_encoders(self) -> None:
        """They are too small to be worth it."""
