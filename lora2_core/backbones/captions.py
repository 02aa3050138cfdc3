"""SDXL's two text encoders, with gradient."""

from collections.abc import Mapping

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, nn

from ..diffusion.text_encoders import TOKENS


class Captions:
    """Captions as tokens, and as what the UNet takes. encoders: for text_encoders.WithText."""

    def __init__(self, pipeline: StableDiffusionXLPipeline):
        self._tokenizers = (pipeline.tokenizer, pipeline.tokenizer_2)
        both = (pipeline.text_encoder, pipeline.text_encoder_2)
        self.encoders: dict[str, nn.Module] = {
            f"te{number}": encoder.requires_grad_(False).eval()
            for number, encoder in enumerate(both, 1)
        }

    def tokens(self, caption: str) -> dict[str, Tensor]:
        """[1, 77] of each encoder, int64; longer captions are cut."""
        return {
            f"{TOKENS}_{number}": tokenizer(
                caption, padding="max_length", max_length=tokenizer.model_max_length,
                truncation=True, return_tensors="pt",
            ).input_ids
            for number, tokenizer in enumerate(self._tokenizers, 1)
        }  # fmt: skip

    def encode(self, conditioning: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As the pipeline does: of both the last layer but one; of the second the pooled vector."""
        found = [
            encoder(conditioning[f"{TOKENS}_{number}"], output_hidden_states=True)
            for number, encoder in enumerate(self.encoders.values(), 1)
        ]
        return {
            "context": torch.cat([output.hidden_states[-2] for output in found], -1),
            "pooled": found[1][0],
            "time_ids": conditioning["time_ids"],
        }
