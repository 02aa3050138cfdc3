"""The demo model's file: one safetensors file in the layout of SDXL checkpoints."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from ..backbones.diffusers_unet import state_names
from .networks import build_autoencoder, build_unet
from .state import AUTOENCODER, SDXL_SCALE, TEXT, UNET, read_state
from .text import TextEncoder, Tokenizer


@dataclass
class DemoModel:
    """The networks, in eval mode and without gradients, and the tokenizer."""

    unet: UNet2DConditionModel
    autoencoder: AutoencoderTiny
    text: TextEncoder
    tokenizer: Tokenizer

    @torch.no_grad()
    def encode_text(self, prompt: str) -> tuple[Tensor, Tensor]:
        """(context [1, 24, 128], pooled [1, 128])."""
        return self.text(torch.tensor([self.tokenizer.encode(prompt)]))

    @torch.no_grad()
    def encode_pictures(self, pictures: Tensor) -> Tensor:
        """Pictures [b, 3, h, w] in −1..1 to latents [b, 4, h/8, w/8] in the denoiser's scale."""
        return self.autoencoder.encode(pictures).latents

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pictures [b, 3, h, w] in −1..1."""
        return self.autoencoder.decode(latents).sample.clamp(-1, 1)


def save(model: DemoModel, path: Path, training: dict) -> None:
    """Writes the weights in fp16; `training` is a record of how they came about."""
    names = state_names(model.unet)
    state = {UNET + names[key]: value for key, value in model.unet.state_dict().items()}
    names = taesd_names(model.autoencoder)
    state |= {AUTOENCODER + names[k]: v for k, v in model.autoencoder.state_dict().items()}
    # a loader of SDXL's kind multiplies latents by this on their way to the denoiser
    state[AUTOENCODER + "vae_scale"] = torch.tensor(SDXL_SCALE)
    state |= {TEXT + key: value for key, value in model.text.state_dict().items()}
    metadata = {
        "modelspec.title": "LoRA2 demo model",
        "modelspec.architecture": "lora2-demo",
        "words": json.dumps(model.tokenizer.words),
        "training": json.dumps(training),
    }
    save_file({k: v.half().contiguous() for k, v in state.items()}, path, metadata)


def load(path: Path) -> DemoModel:
    """Reads what save wrote; fp32 on the CPU."""
    state, tokenizer = read_state(path)
    unet, autoencoder, text = build_unet(), build_autoencoder(), TextEncoder(len(tokenizer))
    unet.load_state_dict({key: state[UNET + name] for key, name in state_names(unet).items()})
    names = taesd_names(autoencoder)
    autoencoder.load_state_dict({key: state[AUTOENCODER + name] for key, name in names.items()})
    text.load_state_dict({key: state[TEXT + key] for key in text.state_dict()})
    for network in (unet, autoencoder, text):
        network.requires_grad_(False).eval()
    return DemoModel(unet, autoencoder, text, tokenizer)


def taesd_names(autoencoder: AutoencoderTiny) -> dict[str, str]:
    """diffusers' key → TAESD's key; the latter counts the decoder's clamp as a layer."""
    names = {}
    for key in autoencoder.state_dict():
        part, _, rest = key.partition(".layers.")
        index, _, rest = rest.partition(".")
        number = int(index) + (part == "decoder")
        names[key] = f"taesd_{part}.{number}.{rest}"
    return names
