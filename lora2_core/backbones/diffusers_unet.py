"""A diffusers UNet of the SDXL family as a denoiser."""

from collections.abc import Mapping

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ..files.sgm_names import sgm_name

TIMESTEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012  # SDXL's scaled-linear schedule
# ᾱ of the last level at zero terminal SNR, as diffusers' samplers have it: the picture is there to
# 1/4096, which changes nothing, and the SNR can be divided by
_LAST = 2**-24


class DiffusersUNet:
    """Meets denoiser.Denoiser. ε- or v-prediction on SDXL's schedule, which zero_terminal_snr has
    end in noise alone.

    conditioning: context [b, tokens, c], pooled [b, p], time_ids [b, 6] (original size, crop,
    target size, as SDXL has them).
    """

    timesteps = TIMESTEPS

    def __init__(
        self,
        unet: UNet2DConditionModel,
        predicts_v: bool = False,
        zero_terminal_snr: bool = False,
    ):
        self.predicts_v = predicts_v
        self.network = unet.requires_grad_(False).eval()
        kinds = ("BasicTransformerBlock", "ResnetBlock2D")
        self.blocks: list[nn.Module] = [m for m in unet.modules() if type(m).__name__ in kinds]
        self._alphas = alphas(zero_terminal_snr)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device  # diffusers' own goes through all modules

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    def corrupt(self, latents: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x_t = √ᾱ x_0 + √(1−ᾱ) ε, and ε or v = √ᾱ ε − √(1−ᾱ) x_0."""
        alpha = self._alphas.to(latents.device)[t].view(-1, 1, 1, 1)
        signal, rest = alpha.sqrt(), (1 - alpha).sqrt()
        noisy = signal * latents + rest * noise
        return noisy, signal * noise - rest * latents if self.predicts_v else noise

    def predict(self, noisy: Tensor, t: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        """ε or v [b, c, h, w]."""
        return self.network(
            noisy.to(self.dtype),
            t,
            encoder_hidden_states=conditioning["context"].to(self.dtype),
            added_cond_kwargs={
                # cast by the network, once both are one; bf16 does not hold every size
                "text_embeds": conditioning["pooled"],
                "time_ids": conditioning["time_ids"],
            },
        ).sample

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio ᾱ/(1−ᾱ) at t [b], int64."""
        alpha = self._alphas.to(t.device)[t]
        return alpha / (1 - alpha)

    def module_name(self, name: str) -> str:
        """The single-file name of module `name`."""
        return _sgm_name(self.network, name)


def alphas(zero_terminal_snr: bool = False) -> Tensor:
    """ᾱ of SDXL's levels, [1000], falling, fp32.

    With zero_terminal_snr √ᾱ is moved so that it ends at 0 and stretched so that it begins where it
    did (arXiv 2305.08891, algorithm 1).
    """
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    found = torch.cumprod(1 - betas, 0)
    if zero_terminal_snr:
        signal = found.sqrt()
        signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
        found = signal**2
        found[-1] = _LAST
    return found.float()


def state_names(unet: UNet2DConditionModel) -> dict[str, str]:
    """Key of the state dict → its name in a single-file checkpoint (without a prefix)."""
    parts = ((key, *key.rpartition(".")[::2]) for key in unet.state_dict())
    return {key: f"{_sgm_name(unet, module)}.{leaf}" for key, module, leaf in parts}


def _sgm_name(unet: UNet2DConditionModel, name: str) -> str:
    config = unet.config
    layers = config.layers_per_block
    attention = tuple("CrossAttn" in kind for kind in config.up_block_types)
    return sgm_name(name, layers if isinstance(layers, int) else layers[0], attention)
