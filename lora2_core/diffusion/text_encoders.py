"""Text encoders that are adapted together with the denoiser."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from .denoiser import Denoiser

TOKENS = "tokens"  # how the names of a caption's tokens begin, among an example's conditioning

Encode = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


class _Both(nn.Module):
    """Denoiser and text encoders as one network: `unet`, `te1`, `te2`."""

    def __init__(self, unet: nn.Module, encoders: Mapping[str, nn.Module]):
        super().__init__()
        self.unet = unet
        for name, encoder in encoders.items():
            self.add_module(name, encoder)


class WithText:
    """A denoiser that encodes its captions anew at every step; meets denoiser.Denoiser.

    encoders: `te1` (CLIP-L) and `te2` (CLIP-G), frozen, as modules with transformers' names
    (text_model.encoder.layers.…), which the file takes over. encode: what an example holds under
    names that begin with TOKENS, and all its other conditioning → the conditioning that the
    denoiser takes, with gradient.
    """

    def __init__(self, denoiser: Denoiser, encoders: Mapping[str, nn.Module], encode: Encode):
        self._denoiser = denoiser
        self._encode = encode
        self.network = _Both(denoiser.network, encoders)
        self.blocks = denoiser.blocks  # 77 tokens are not worth recomputing
        self.dtype = None  # encoders are often held in another type than the denoiser
        self.timesteps = denoiser.timesteps
        self.predicts_v = denoiser.predicts_v

    @property
    def device(self) -> torch.device:
        return self._denoiser.device

    def corrupt(self, latents: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._denoiser.corrupt(latents, noise, t)

    def predict(self, noisy: Tensor, t: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        return self._denoiser.predict(noisy, t, self._encode(conditioning))

    def snr(self, t: Tensor) -> Tensor:
        return self._denoiser.snr(t)

    def module_name(self, name: str) -> str:
        """As the denoiser names its own; those of the encoders begin with `te1.` and `te2.`."""
        part, _, rest = name.partition(".")
        if part == "unet":
            return self._denoiser.module_name(rest)
        # transformers 5 has left this level out
        return f"{part}.text_model.{rest.removeprefix('text_model.')}"
